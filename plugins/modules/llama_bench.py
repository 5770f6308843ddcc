#!/usr/bin/python
"""Ansible module: run llama.cpp's measuring tools, or end a run of them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_bench
short_description: Run llama-bench or llama-batched-bench beside an instance
description:
  - Runs command lines one after another and keeps what they print. A run that fails is no failure of the module.
  - The folder's lock is held as long as the module or a tool of it lives, so there is one run at a time.
options:
  action:
    description: Whether to measure, or to end a run.
    choices: [run, end]
    type: str
    required: true
  run:
    description: What the run is called.
    type: str
    required: true
  folder:
    description: Where the lock, the progress and the lines of the last run are.
    type: path
    required: true
  instance:
    description: The folder of the instance whose environment and user the tools get.
    type: path
  commands:
    description: Lists of words.
    type: list
    elements: list
    default: []
  user:
    description: The user of servers under systemd; an instance of another runtime names its own.
    type: str
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Measure
  llama.nexus.llama_bench:
    action: run
    run: 5f0c2a
    folder: /opt/llama-nexus/bench
    instance: /opt/llama-nexus/instances/main
    commands: [[/opt/llama-nexus/current/bin/llama-bench, -m, /opt/llama-nexus/models/model.gguf, -o, jsonl]]
    user: llama-server
"""
RETURN = r"""
measured:
  description:
    - C(lines) and C(begun_at) on the host's monotonic clock, and where the run came to its end also C(status), C(said),
      C(gpus) and C(host_state).
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.hostlib.environment import begin
from ..module_utils.hostlib.locks import LockError
from ..module_utils.llama_bench.errors import Refused
from ..module_utils.llama_bench.runs import end, measure


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={
            "action": {"type": "str", "choices": ["run", "end"], "required": True},
            "run": {"type": "str", "required": True},
            "folder": {"type": "path", "required": True},
            "instance": {"type": "path"},
            "commands": {"type": "list", "elements": "list", "default": []},
            "user": {"type": "str"},
        },
        required_if=[("action", "run", ["instance", "commands", "user"])],
    )
    try:
        measured = {"run": measure, "end": end}[module.params["action"]](module.params)
    except (Refused, LockError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.strerror}: {error.filename}")
    module.exit_json(changed=False, measured=measured)


if __name__ == "__main__":
    main()
