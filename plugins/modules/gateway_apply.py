#!/usr/bin/python
"""Ansible module: a gateway, running as declared, or gone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway_apply
short_description: Keep a gateway running as declared, or remove it
description:
  - Has HAProxy check the configuration, writes its files, has systemd or supervisor run it, or reloads what runs, and
    sees that it answers with what was declared. One that does not come up is replaced by what was there.
options:
  root:
    description: The folder of everything that belongs to it.
    type: path
    required: true
  state:
    description: Whether it is to run or to be gone. Of one that goes the log of requests stays.
    type: str
    choices: [present, absent]
    default: present
  runtime:
    description: What keeps it running. C(auto) is systemd where that is PID 1 and the user is root, else supervisor.
    type: str
    choices: [auto, systemd, supervisor]
    default: auto
  host:
    description: The address that it listens on.
    type: str
    default: 127.0.0.1
  port:
    description: The port that it listens on.
    type: int
  python:
    description: The interpreter of the environment that supervisor is in.
    type: path
  files:
    description:
      - Its files by their place below C(root), C(haproxy.cfg) among them, in which C(@ROOT@) and C(@CONFIGURATION@) are
        filled in. C(@ROOT@) is filled into C(www/front.html) and C(www/status.json), too.
    type: dict
    default: {}
  secrets:
    description: Files that hold keys, in the same way.
    type: dict
    default: {}
  rows:
    description: The rows of hosts as a JSON list, which are kept for deployments of other hosts.
    type: str
  servers:
    description: The servers of the plan, which it has to reach.
    type: list
    elements: dict
    default: []
  unit:
    description: The systemd unit. C(@COMMAND@) stands for the command line.
    type: str
  kept:
    description: Maps below its folder that others fill. Where one is not there, it is made, and empty.
    type: list
    elements: str
    default: []
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Have the gateway
  llama.nexus.gateway_apply:
    root: /opt/llama-nexus/gateway
    port: 3000
    python: /opt/llama-nexus/gateway/env/bin/python
    files: "{{ files }}"
    unit: "{{ lookup('template', 'llama-nexus-gateway.service.j2') }}"
"""
RETURN = r"""
reasons:
  description: What was not as declared, a line each.
  returned: always
  type: list
runtime:
  description: What runs it.
  returned: when it is to run
  type: str
unreached:
  description: The servers that it does not reach, a line each.
  returned: when it is to run
  type: list
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.gateway.apply import absent, present
from ..module_utils.gateway.errors import GatewayError
from ..module_utils.hostlib.environment import begin
from ..module_utils.hostlib.files import reason_of
from ..module_utils.service.errors import ServiceError


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "runtime": {"type": "str", "choices": ["auto", "systemd", "supervisor"], "default": "auto"},
            "host": {"type": "str", "default": "127.0.0.1"},
            "port": {"type": "int"},
            "python": {"type": "path"},
            "files": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "rows": {"type": "str", "no_log": True},
            "servers": {"type": "list", "elements": "dict", "default": []},
            "unit": {"type": "str"},
            "kept": {"type": "list", "elements": "str", "default": []},
        },
        required_if=[("state", "present", ["port", "python", "files", "unit"])],
        supports_check_mode=True,
    )
    try:
        result = (
            present(module.params, check_mode=module.check_mode)
            if module.params["state"] == "present"
            else absent(module.params["root"], check_mode=module.check_mode)
        )
    except (GatewayError, ServiceError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=reason_of(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
