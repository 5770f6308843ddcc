#!/usr/bin/python
"""Ansible module: the follower of a gateway's log, running as declared, or gone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway_follower
short_description: Keep the follower of a gateway's log running as declared, or remove it
description:
  - Writes the follower's files, and has systemd or supervisor run it. It moves the log's lines to files by day, and
    tells HAProxy what users have left of their tokens.
options:
  root:
    description: The folder of the gateway.
    type: path
    required: true
  files:
    description: Its files by their place below its folder.
    type: dict
    default: {}
  keep_days:
    description: How many days the log is kept.
    type: int
extends_documentation_fragment: llama.nexus.service
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Have the follower of the log
  llama.nexus.gateway_follower:
    root: /opt/llama-nexus/gateway
    files: "{{ files }}"
    keep_days: 90
    unit: "{{ lookup('template', 'llama-nexus-gateway-follower.service.j2') }}"
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

from ..module_utils.gateway.follower_service import absent, present
from ..module_utils.service.module import run_module


def main() -> None:
    run_module(present, absent, {"keep_days": {"type": "int"}})


if __name__ == "__main__":
    main()
