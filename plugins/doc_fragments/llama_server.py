"""Documentation that modules of role llama_server share; their arguments are in module_utils/llama_server/host.py."""

from __future__ import annotations


class ModuleDocFragment:
    """C(llama_server.places) and C(llama_server.declared)."""

    PLACES = r"""
options:
  root:
    description: The folder of all instances.
    type: path
    required: true
  logs:
    description: The folder of logs, for runtimes that have none of their own.
    type: path
    required: true
  user:
    description: The user that servers run as under systemd and Docker.
    type: str
    required: true
  supervisor_python:
    description: An interpreter that has supervisor.
    type: path
    default: ""
"""

    DECLARED = r"""
options:
  instances:
    description: By name C(config), C(files) and C(proof), as role llama_server renders them.
    type: dict
    required: true
  keys:
    description: By instance the keys by name.
    type: dict
    default: {}
  launcher:
    description: Text of the program that becomes a server.
    type: str
    required: true
  unit:
    description: Text of systemd's unit, the same for all instances.
    type: str
    required: true
  trial:
    description: Whether a new server is first proven on a side port.
    choices: [auto, always, never]
    default: auto
    type: str
  prune:
    description: Whether instances that are no longer declared are removed.
    type: bool
    default: false
  drain_timeout:
    description: How many seconds requests are waited for when an instance is removed.
    type: int
    default: 30
"""
