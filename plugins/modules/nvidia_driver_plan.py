#!/usr/bin/python
"""Ansible module: what it takes for NVIDIA's driver to serve a host's GPUs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_driver_plan
short_description: See whether NVIDIA's driver serves, and what it takes
description:
  - Looks at the PCI bus, the kernel, the driver and the packages, decides which driver the GPUs need, and changes
    nothing. In check mode its result is C(changed) where something would be done.
extends_documentation_fragment: llama.nexus.nvidia_driver.settings
author: Llama Nexus
"""
EXAMPLES = r"""
- name: See what the driver needs
  llama.nexus.nvidia_driver_plan:
    repository_url: https://developer.download.nvidia.com/compute/cuda/repos
  register: plan
"""
RETURN = r"""
steps:
  description: What would be done, in sentences.
  returned: always
  type: list
disruptive:
  description: Whether programs that use the GPUs have to be stopped first.
  returned: always
  type: bool
gpus:
  description: The GPUs that the driver shows, else those of the PCI bus.
  returned: always
  type: list
found:
  description: The driver that serves or is loaded (C(driver), C(flavour)), and the kind of C(container), if it is one.
  returned: always
  type: dict
wanted:
  description: C(branch), C(flavour), C(source) and C(packages) of the driver to be installed, where one is.
  returned: always
  type: dict
notes:
  description: What is worth knowing.
  returned: always
  type: list
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.hostlib.environment import begin
from ..module_utils.hostlib.files import reason_of
from ..module_utils.hostlib.programs import ProgramError
from ..module_utils.nvidia.driver_plan import ARGUMENTS, Plan, Settings
from ..module_utils.nvidia.errors import DriverError, NvidiaError


def main() -> None:
    begin()
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        plan = Plan(Settings(**module.params)).made()
    except (NvidiaError, DriverError, ProgramError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=reason_of(error))
    for note in plan.notes:
        if plan.gpus:
            module.warn(note)
    steps = [step.text for step in plan.steps]
    driver = plan.installation.driver if plan.installation else None
    wanted = (
        {"branch": driver.branch, "flavour": driver.flavour, "source": driver.source, "packages": list(driver.packages)}
        if driver and steps
        else None
    )
    seen = plan.seen
    served = seen.gpus[0]["driver"] if seen.gpus else seen.loaded
    module.exit_json(
        changed=module.check_mode and bool(steps),
        steps=steps,
        disruptive=plan.disruptive,
        gpus=seen.gpus or plan.gpus,
        found={"driver": served, "flavour": seen.flavour, "container": plan.container},
        wanted=wanted,
        notes=plan.notes,
    )


if __name__ == "__main__":
    main()
