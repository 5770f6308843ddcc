"""Ansible action: plan the memory of the instances that are to start on a host, and refuse what does not fit.

    - name: Plan the memory of what changes
      llama.nexus.memory_plan:
        host: {root: …, logs: …, instances: …, keys: …, launcher: …, unit: …, user: …, prune: …}
        planned: "{{ instances | llama.nexus.llama_server_planned(settings) }}"
        files: "{{ gguf_model_files }}"
      register: plans

The host is asked once, by module llama_server_memory, whose arguments ``host`` holds: what is free, what servers hold
that will be replaced, and the headers of the models that lie there. Those of others are read, by ranges, from where
they come from. The result has ``plans`` by instance and ``seen``, which the next call is given; what can't be planned,
or is deployed all the same, is warned about.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ..plugin_utils.memory_planning import Question, paths_on_host, plan_host

display = Display()

WITHOUT_RULES = (
    "memory is not planned, and nothing is refused for it: ansible-playbook runs in an environment without the project "
    "({error}): start it from .venv/bin"
)


class ActionModule(ActionBase):
    """See the module docstring."""

    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            argument_spec={
                "host": {"type": "dict", "required": True},
                "planned": {"type": "dict", "required": True},
                "files": {"type": "dict", "required": True},
                "gpu_memory": {"type": "list", "elements": "float"},
                "host_memory": {"type": "float"},
                "mirror": {"type": "str", "default": ""},
                "cache": {"type": "path", "default": ""},
                "seen": {"type": "list", "elements": "str", "default": []},
            }
        )
        paths = paths_on_host(args["planned"], args["files"], args["mirror"])
        found = self._execute_module(
            module_name="llama.nexus.llama_server_memory",
            module_args={**args["host"], "models": sorted(set(paths.values()))},
            task_vars=task_vars,
        )
        if found.get("failed"):
            return dict(found)
        question = Question(
            host=(task_vars or {})["inventory_hostname"],
            declared=args["host"]["instances"],
            planned=args["planned"],
            files=args["files"],
            found=found,
            gpu_memory=args["gpu_memory"],
            host_memory=args["host_memory"],
            mirror=args["mirror"],
            cache=str(Path(args["cache"]).expanduser()) if args["cache"] else "",
            seen=args["seen"],
        )
        try:
            answer = plan_host(question)
        except ImportError as error:
            return {"changed": False, "plans": {}, "seen": [], "warnings": [WITHOUT_RULES.format(error=error)]}
        if answer["refused"]:
            raise AnsibleActionFail("\n".join(answer["refused"]))
        for line in (*answer["fitting"], *answer["notes"]):
            display.display(f"  {line}")
        return {"changed": False, **{key: answer[key] for key in ("plans", "seen", "warnings")}}
