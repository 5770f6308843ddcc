#!/usr/bin/python
"""Ansible module: bring llama-server instances from one verified state to the next, or back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_server_converge
short_description: Switch llama-server instances to their declarations, or restore the last good ones
description:
  - "For each instance in turn: proof on a side port where memory has room, drain, stop, start, proof. When the proof
    fails the last verified generation is started and proven again, and C(wrong) tells both."
  - Meant to run asynchronously, so that it goes on when the controller is gone.
extends_documentation_fragment: [llama.nexus.llama_server.places, llama.nexus.llama_server.declared]
options:
  names:
    description: The instances to switch, as M(llama_server_plan) named them.
    type: list
    elements: str
    required: true
  ahead:
    description: Whether to do only what can be done while the old servers serve, trials included.
    type: bool
    default: false
  tried:
    description: Generations that a run with C(ahead) has tried; they are not tried again.
    type: list
    elements: str
    default: []
  progress:
    description: A file that gets one line about what is happening.
    type: path
    required: true
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Switch
  llama.nexus.llama_server_converge:
    root: /opt/llama-nexus/instances
    logs: /opt/llama-nexus/logs
    instances: "{{ __llama_server_declared }}"
    keys: "{{ __llama_server_keys }}"
    launcher: "{{ lookup('ansible.builtin.file', 'launch.py') }}"
    unit: "{{ lookup('ansible.builtin.template', 'llama-server@.service.j2') }}"
    user: llama-server
    names: [main]
    progress: /opt/llama-nexus/logs/serve.progress
  async: 3600
  poll: 0
"""
RETURN = r"""
instances:
  description: A row an instance, with C(name), C(state), C(checks), C(tokens_per_second), C(downtime_seconds) and,
    where the old server was restored, C(restored).
  returned: always
  type: list
tried:
  description: The generations that were proven beside the old servers, with C(ahead).
  returned: always
  type: list
releases:
  description: The folders of the releases that an instance of this host may start or go back to.
  returned: always
  type: list
wrong:
  description: What failed, for people; empty where all is well.
  returned: always
  type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.hostlib.environment import begin
from ..module_utils.hostlib.files import write_line
from ..module_utils.hostlib.terminal_text import all_plain, plain
from ..module_utils.llama_server.converge import converge, prepare_ahead
from ..module_utils.llama_server.errors import HostError
from ..module_utils.llama_server.failures import failure_message
from ..module_utils.llama_server.folder import used_releases
from ..module_utils.llama_server.host import ARGUMENTS, host_of


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "names": {"type": "list", "elements": "str", "required": True},
            "ahead": {"type": "bool", "default": False},
            "tried": {"type": "list", "elements": "str", "default": []},
            "progress": {"type": "path", "required": True},
            "plans": {"type": "dict", "default": {}},
        }
    )
    shown = [""]

    def progress(line: str) -> None:
        if line != shown[0]:
            shown[0] = line
            write_line(module.params["progress"], line)

    root = module.params["root"]
    try:
        for folder in (root, module.params["logs"]):
            os.makedirs(folder, mode=0o755, exist_ok=True)
        progress("beginning, or waiting for another run")  # not the last line of the run before
        work = prepare_ahead if module.params["ahead"] else converge
        rows = all_plain(work(host_of(module.params, progress), module.params["names"]))
    except HostError as error:
        module.fail_json(msg=plain(str(error)))
    except OSError as error:
        module.fail_json(msg=f"{error.strerror}: {error.filename}; what served before serves on")
    module.exit_json(
        changed=any(row["changed"] for row in rows),
        instances=[row for row in rows if row["state"] != "tried"],
        wrong=failure_message(rows),
        tried=[row["generation"] for row in rows if row["state"] == "tried"],
        releases=used_releases(root),
    )


if __name__ == "__main__":
    main()
