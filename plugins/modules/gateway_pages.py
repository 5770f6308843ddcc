#!/usr/bin/python
"""Ansible module: nginx, which serves a gateway's reports, running as declared, or gone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway_pages
short_description: Keep a gateway's server of reports running as declared, or remove it
description:
  - Writes the configuration of nginx, has nginx check it, and has systemd or supervisor run it on a socket below the
    gateway's folder.
options:
  root:
    description: The folder of the gateway.
    type: path
    required: true
  state:
    description: Whether it is to run or to be gone.
    type: str
    choices: [present, absent]
    default: present
  runtime:
    description: What keeps it running. C(auto) is systemd where that is PID 1 and the user is root, else supervisor.
    type: str
    choices: [auto, systemd, supervisor]
    default: auto
  python:
    description: The interpreter of the environment that supervisor is in.
    type: path
  files:
    description:
      - Its files by their place below C(pages) in the gateway's folder, C(nginx.conf) among them. C(@ROOT@) in them is
        that folder.
    type: dict
    default: {}
  unit:
    description: The systemd unit. C(@COMMAND@) stands for the command line.
    type: str
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Have reports served
  llama.nexus.gateway_pages:
    root: /opt/llama-nexus/gateway
    python: /opt/llama-nexus/gateway/env/bin/python
    files:
      nginx.conf: "{{ lookup('template', 'nginx.conf.j2') }}"
    unit: "{{ lookup('template', 'llama-nexus-gateway-pages.service.j2') }}"
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
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.gateway.errors import GatewayError
from ..module_utils.gateway.pages_service import absent, present
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
            "python": {"type": "path"},
            "files": {"type": "dict", "default": {}},
            "unit": {"type": "str"},
        },
        required_if=[("state", "present", ["python", "files", "unit"])],
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
