#!/usr/bin/python
"""Ansible module: the exporter of telemetry, running as declared, or gone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: telemetry_exporter
short_description: Keep the exporter of telemetry running as declared, or remove it
description:
  - Writes the exporter's files, has systemd or supervisor run it, and sees that it answers as what was declared.
  - What is declared has a hash, which the running exporter tells. One that tells another is restarted.
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
  python:
    description: The interpreter of its environment, which supervisor is in as well.
    type: path
  requirements:
    description: What is in the environment. Another text is a reason for a restart.
    type: str
  files:
    description: Its files by name, C(exporter.py) among them.
    type: dict
    default: {}
extends_documentation_fragment: llama.nexus.service
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Have the exporter
  llama.nexus.telemetry_exporter:
    root: /opt/llama-nexus/telemetry
    port: 8599
    python: /opt/llama-nexus/telemetry/env/bin/python
    requirements: "{{ lookup('file', 'telemetry.txt') }}"
    files:
      exporter.py: "{{ lookup('file', 'exporter.py') }}"
    unit: "{{ lookup('template', 'llama-nexus-telemetry.service.j2') }}"
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
url:
  description: Where it answers on this host.
  returned: when it is to run
  type: str
"""

from ..module_utils.service.module import run_module
from ..module_utils.telemetry.exporter import absent, present


def main() -> None:
    run_module(
        present,
        absent,
        {
            "host": {"type": "str", "default": "127.0.0.1"},
            "port": {"type": "int"},
            "python": {"type": "path"},
            "requirements": {"type": "str"},
        },
    )


if __name__ == "__main__":
    main()
