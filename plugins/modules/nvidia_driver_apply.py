#!/usr/bin/python
"""Ansible module: install and load NVIDIA's driver, and prove that it serves."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_driver_apply
short_description: Do what nvidia_driver_plan says
description:
  - Makes the plan again and does it. A run that was killed is taken up by the next one.
extends_documentation_fragment: llama.nexus.nvidia_driver.settings
options:
  rebooted:
    description: Whether the host was rebooted for it, so that another reboot would not help.
    type: bool
    default: false
  progress:
    description: A file that gets one line about what is happening.
    type: path
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Install the driver
  llama.nexus.nvidia_driver_apply:
    repository_url: https://developer.download.nvidia.com/compute/cuda/repos
"""
RETURN = r"""
done:
  description: What was done, in sentences.
  returned: always
  type: list
reboot:
  description: Why the host has to be rebooted before the driver serves; empty where it serves.
  returned: always
  type: str
gpus:
  description: The GPUs that the driver shows.
  returned: always
  type: list
driver:
  description: Its version.
  returned: where it serves
  type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.hostlib.environment import begin
from ..module_utils.hostlib.files import reason_of, write_line
from ..module_utils.hostlib.programs import ProgramError
from ..module_utils.nvidia.driver_apply import apply
from ..module_utils.nvidia.driver_plan import ARGUMENTS, Settings
from ..module_utils.nvidia.errors import DriverError, NvidiaError


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "rebooted": {"type": "bool", "default": False},
            "progress": {"type": "path"},
        },
        supports_check_mode=False,
    )
    params = dict(module.params)
    rebooted, progress = params.pop("rebooted"), params.pop("progress")

    def say(line: str) -> None:
        if progress:
            write_line(progress, line[:200])

    try:
        result = apply(Settings(**params), say, rebooted=rebooted)
        if progress and os.path.exists(progress):
            os.unlink(progress)
    except (NvidiaError, DriverError, ProgramError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=reason_of(error))
    module.exit_json(changed=bool(result["done"]), **result)


if __name__ == "__main__":
    main()
