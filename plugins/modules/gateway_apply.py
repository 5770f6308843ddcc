#!/usr/bin/python
"""Ansible module: a gateway, running as declared, or gone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway_apply
short_description: Keep a gateway running as declared, or remove it
description:
  - Has HAProxy check the configuration, writes its files, has systemd or supervisor run it, or reloads what runs, and
    sees that it answers with what was declared. One that does not come up is replaced by what was there.
  - Of one that goes the log of requests stays.
options:
  root:
    description: The folder of everything that belongs to it.
    type: path
    required: true
  host:
    description: The address that it listens on.
    type: str
    default: 127.0.0.1
  port:
    description: The port that it listens on.
    type: int
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
    default: "[]"
  servers:
    description: The servers of the plan, which it has to reach.
    type: list
    elements: dict
    default: []
  serving:
    description: The names of servers that run as they were proven. One that refuses a connection is not reached.
    type: list
    elements: str
    default: []
  hold_timeout:
    description: For how many seconds requests are held at most; what runs is loaded anew when none is.
    type: int
    default: 0
  kept:
    description: Maps below its folder that others fill. Where one is not there, it is made, and empty.
    type: list
    elements: str
    default: []
extends_documentation_fragment: llama.nexus.service
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Have the gateway
  llama.nexus.gateway_apply:
    root: /opt/llama-nexus/gateway
    port: 3000
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

from ..module_utils.gateway.apply import absent, present
from ..module_utils.gateway.errors import GatewayError
from ..module_utils.service.module import run_module

ARGUMENTS = {
    "host": {"type": "str", "default": "127.0.0.1"},
    "port": {"type": "int"},
    "secrets": {"type": "dict", "default": {}, "no_log": True},
    "rows": {"type": "str", "default": "[]", "no_log": True},
    "servers": {"type": "list", "elements": "dict", "default": []},
    "serving": {"type": "list", "elements": "str", "default": []},
    "hold_timeout": {"type": "int", "default": 0},
    "kept": {"type": "list", "elements": "str", "default": []},
}


def main() -> None:
    run_module(present, absent, ARGUMENTS, GatewayError)


if __name__ == "__main__":
    main()
