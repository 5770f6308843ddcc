#!/usr/bin/python
"""Ansible module: what a gateway knows before a deployment."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway_known
short_description: Tell what a gateway knows
description:
  - Returns the rows of hosts that deployments before left on the gateway, and what HAProxy is installed. Keys are among
    the rows. Changes nothing.
options:
  root:
    description: The folder of everything that belongs to it.
    type: path
    required: true
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Read what it knows
  llama.nexus.gateway_known:
    root: /opt/llama-nexus/gateway
  register: known
  no_log: true
"""
RETURN = r"""
rows:
  description: A row for each host, as the filter gateway_served makes them.
  returned: always
  type: list
certificates:
  description: The files of its certificate and of its own authority, by their place below C(root).
  returned: always
  type: dict
haproxy:
  description: The path of HAProxy; empty where it is not installed.
  returned: always
  type: str
nginx:
  description: The path of nginx; empty where it is not installed.
  returned: always
  type: str
has_apt:
  description: Whether the host has Debian's packages.
  returned: always
  type: bool
is_root:
  description: Whether the gateway runs as root.
  returned: always
  type: bool
runtimes:
  description: What each value of gateway_runtime means here, systemd or supervisor.
  returned: always
  type: dict
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.gateway.apply import known_certificates, known_rows
from ..module_utils.gateway.haproxy import find
from ..module_utils.gateway.pages_service import find as nginx
from ..module_utils.hostlib import systemd
from ..module_utils.hostlib.environment import begin


def main() -> None:
    begin()
    module = AnsibleModule(argument_spec={"root": {"type": "path", "required": True}}, supports_check_mode=True)
    is_root = os.geteuid() == 0
    chosen = "systemd" if is_root and systemd.is_pid_1() else "supervisor"
    try:
        rows, certificates = known_rows(module.params["root"]), known_certificates(module.params["root"])
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    module.exit_json(
        rows=rows,
        certificates=certificates,
        haproxy=find() or "",
        nginx=nginx() or "",
        has_apt=os.path.exists("/usr/bin/apt-get"),
        is_root=is_root,
        runtimes={"auto": chosen, "systemd": "systemd", "supervisor": "supervisor"},
    )


if __name__ == "__main__":
    main()
