"""Documentation that the modules of role nvidia_driver share."""

from __future__ import annotations


class ModuleDocFragment:
    """The settings of the role."""

    SETTINGS = r"""
options:
  manage:
    description:
      - C(auto) installs a driver where none serves, and in containers only looks. C(always) refuses a container
        instead. C(never) only looks.
    choices: [auto, always, never]
    default: auto
    type: str
  required:
    description: Whether a host without a working GPU is an error.
    type: bool
    default: false
  upgrade:
    description: Whether a driver that serves is replaced where it is not the one that the host should have.
    type: bool
    default: false
  branch:
    description: The branch of the driver, as in C(580); by default the one that suits system and GPUs.
    type: str
    default: ""
  flavour:
    description: The kind of kernel modules, C(open) or C(proprietary); by default what suits system and GPUs.
    type: str
    default: ""
  repository_url:
    description: Where NVIDIA's repositories for all systems are.
    type: str
    required: true
  repository_fingerprint:
    description: That of the key of a mirror that signs by itself.
    type: str
    default: ""
  reboot:
    description: Whether the host may be rebooted.
    type: bool
    default: false
"""
