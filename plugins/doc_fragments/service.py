"""Documentation that modules of services share; their arguments are in module_utils/service/module.py."""

from __future__ import annotations


class ModuleDocFragment:
    """C(service)."""

    DOCUMENTATION = r"""
options:
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
  unit:
    description: The systemd unit. C(@COMMAND@) stands for the command line.
    type: str
"""
