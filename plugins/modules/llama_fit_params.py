#!/usr/bin/python
"""Ansible module: the memory of models as this host's llama.cpp computes it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_fit_params
short_description: Ask llama-fit-params about models of which the headers are there
description:
  - The headers become files of their models' sizes, without a byte more being written. Nothing is loaded.
options:
  release:
    description: The folder of the release whose program is asked.
    type: path
    required: true
  folder:
    description: A folder for the user alone, with a folder of headers for each model, called by its number.
    type: path
    required: true
  models:
    description: Of each model C(files) (C(name) and C(size_bytes), the first one first), and C(words), the options.
    type: list
    elements: dict
    required: true
  user:
    description: Whom the program runs as, where the module is root and there is such a user.
    type: str
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Ask about a model
  llama.nexus.llama_fit_params:
    release: /opt/llama-nexus/current
    folder: /var/tmp/headers
    models:
      - files: [{name: model.gguf, size_bytes: 11073000000}]
        words: [-c, "32768"]
    user: llama-server
"""
RETURN = r"""
memory:
  description: >-
    C(models), of each a list of devices (name, and MiB of model, context and compute), C(gpus_free_mib) and
    C(host_free_mib).
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.hostlib.environment import begin
from ..module_utils.hostlib.fit_params import FitError
from ..module_utils.llama_bench.fit import memory_of


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={
            "release": {"type": "path", "required": True},
            "folder": {"type": "path", "required": True},
            "models": {"type": "list", "elements": "dict", "required": True},
            "user": {"type": "str"},
        },
        supports_check_mode=True,
    )
    try:
        memory = memory_of(module.params)
    except FitError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.strerror}: {error.filename}")
    module.exit_json(changed=False, memory=memory)


if __name__ == "__main__":
    main()
