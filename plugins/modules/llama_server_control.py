#!/usr/bin/python
"""Ansible module: look after llama-server instances that were deployed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_server_control
short_description: Show, start, stop, restart or roll back deployed llama-server instances
description:
  - Works on what is on the host. What is declared matters for nothing but the limits of the proof.
  - A start, restart or rollback ends with a proof. A rollback goes to the generation that was proven before the present
    one, and comes back when that can't be proven any more.
extends_documentation_fragment: llama.nexus.llama_server.places
options:
  action:
    description: What to do.
    choices: [status, logs, start, stop, restart, rollback]
    type: str
    required: true
  names:
    description: The instances; none means all.
    type: list
    elements: str
    default: []
  proofs:
    description: By instance what its proof asks for; C(default) for those that are not declared.
    type: dict
    default: {}
  launcher:
    description: Text of the program that becomes a server, for a rollback to what another version deployed.
    type: str
  lines:
    description: How many lines of log to show.
    type: int
    default: 50
  progress:
    description: A file that gets one line about what is happening.
    type: path
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Look
  llama.nexus.llama_server_control:
    action: status
    root: /opt/llama-nexus/instances
    logs: /opt/llama-nexus/logs
    user: llama-server
"""
RETURN = r"""
instances:
  description: A row an instance.
  returned: always
  type: list
wrong:
  description: What could not be proven, for people; empty where all is well. It does not fail the module.
  returned: always
  type: str
model_files:
  description: Files of models that an instance may start or go back to, each with path and user, the instance.
  returned: always
  type: list
"""


from ansible.module_utils.basic import AnsibleModule

from ..module_utils.hostlib.environment import begin
from ..module_utils.hostlib.files import write_line
from ..module_utils.hostlib.terminal_text import all_plain, plain
from ..module_utils.llama_server.control import restart, rollback, start, stop
from ..module_utils.llama_server.desired_state import TRIAL
from ..module_utils.llama_server.errors import HostError
from ..module_utils.llama_server.failures import failure_message
from ..module_utils.llama_server.folder import folders, used_model_files
from ..module_utils.llama_server.host import PLACES, host_of
from ..module_utils.llama_server.status import status

MOVES = {"start": start, "stop": stop, "restart": restart, "rollback": rollback}


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={
            **PLACES,
            "action": {"type": "str", "choices": ["status", "logs", *MOVES], "required": True},
            "names": {"type": "list", "elements": "str", "default": []},
            "proofs": {"type": "dict", "default": {}},
            "launcher": {"type": "str"},
            "lines": {"type": "int", "default": 50},
            "progress": {"type": "path"},
        },
        required_if=[("action", "rollback", ["launcher"])],
        supports_check_mode=True,
    )
    params = module.params
    action, names = params["action"], params["names"]

    def progress(line: str) -> None:
        if params["progress"]:
            write_line(params["progress"], line)

    rows = []
    try:
        host = host_of(params, progress)
        deployed = {folder.name: folder for folder in folders(host.root) if not folder.name.endswith(TRIAL)}
        missing = sorted(set(names) - set(deployed))
        if missing:
            raise HostError(
                f"no instance {', '.join(missing)} is deployed here; those that are: {', '.join(deployed) or 'none'}"
            )
        if action in MOVES:
            host.progress("beginning")  # not the last line of the run before
        for name in names or list(deployed):
            folder = deployed[name]
            row = status(host, folder)
            if action == "logs":
                # One that was never proven has no generation left; its log says why.
                known = folder.linked("verified") or folder.linked("pending") or folder.state()
                if known.runtime and "why" not in row:
                    row["log_tail"] = host.runtime_named(known.runtime).log(name, params["lines"])
            elif action == "stop" and module.check_mode:
                row = stop(host, folder, {}, check_mode=True)
            elif action in MOVES and module.check_mode:
                row["changed"] = action != "start" or row["state"] != "running"
            elif action in MOVES:
                proof = params["proofs"].get(name) or params["proofs"]["default"]
                row = MOVES[action](host, folder, proof)
            rows.append(row)
            if row["error"]:
                break
    except HostError as error:
        module.fail_json(msg=plain(str(error)), instances=all_plain(rows))
    except OSError as error:
        module.fail_json(msg=f"{error.strerror}: {error.filename}", instances=all_plain(rows))
    rows = all_plain(rows)
    module.exit_json(
        changed=any(row["changed"] for row in rows), instances=rows, wrong=failure_message(rows),
        model_files=used_model_files(host.root),
    )  # fmt: skip


if __name__ == "__main__":
    main()
