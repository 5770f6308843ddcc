#!/usr/bin/python
"""Ansible module: memory of this host for llama-server instances, and the headers of models that lie here."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_server_memory
short_description: Tell the memory that llama-server instances have, and hold
description:
  - Nothing is touched. What servers hold that will be replaced is told, since they give it back.
  - It is asked by the action P(llama.nexus.memory_plan#module), which plans with it.
extends_documentation_fragment: [llama.nexus.llama_server.places, llama.nexus.llama_server.declared]
options:
  models:
    description: Paths of GGUF files on this host, of a model in several files the first, whose headers are wanted.
    type: list
    elements: path
    default: []
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Tell what is free
  llama.nexus.llama_server_memory:
    root: /opt/llama-nexus/instances
    logs: /opt/llama-nexus/logs
    instances: "{{ __llama_server_declared }}"
    launcher: "{{ lookup('ansible.builtin.file', 'launch.py') }}"
    unit: "{{ lookup('ansible.builtin.template', 'llama-server@.service.j2') }}"
    user: llama-server
    models: [/opt/llama-nexus/models/qwen3-8b.gguf]
"""
RETURN = r"""
gpus:
  description: Of each GPU C(index), C(uuid), C(name), C(total_mib) and C(free_mib), null where it is not told.
  returned: always
  type: list
gpus_why:
  description: Why there are none; empty where there are.
  returned: always
  type: str
available_mib:
  description: MiB of the host's memory that processes can have without swapping.
  returned: always
  type: float
servers:
  description: By instance C(stays), C(ends), C(gpus_mib) by UUID and C(host_mib).
  returned: always
  type: dict
headers:
  description: By path C(files), the headers of all files of the model, or C(problem).
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.hostlib.environment import begin
from ..module_utils.hostlib.terminal_text import plain
from ..module_utils.llama_server.errors import HostError
from ..module_utils.llama_server.host import ARGUMENTS, host_of
from ..module_utils.llama_server.memory import memory_of


def main() -> None:
    begin()
    models = {"type": "list", "elements": "path", "default": []}
    module = AnsibleModule(argument_spec={**ARGUMENTS, "models": models}, supports_check_mode=True)
    try:
        found = memory_of(host_of(module.params), module.params["models"])
    except HostError as error:
        module.fail_json(msg=plain(str(error)))
    except OSError as error:
        module.fail_json(msg=f"{error.strerror}: {error.filename}")
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
