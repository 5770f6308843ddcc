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
  files:
    description:
      - Its files by their place below C(pages) in the gateway's folder, C(nginx.conf) among them. C(@ROOT@) in them is
        that folder.
    type: dict
    default: {}
extends_documentation_fragment: llama.nexus.service
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Have reports served
  llama.nexus.gateway_pages:
    root: /opt/llama-nexus/gateway
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

from ..module_utils.gateway.pages_service import absent, present
from ..module_utils.service.module import run_module


def main() -> None:
    run_module(present, absent, {})


if __name__ == "__main__":
    main()
