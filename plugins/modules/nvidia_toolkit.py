#!/usr/bin/python
"""Ansible module: a CUDA toolkit of a given version."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_toolkit
short_description: Have a CUDA toolkit
description:
  - Installs the compiler, the runtime and cuBLAS of one version from NVIDIA's repository, beside other versions and
    without a driver. A compiler of that version that is there already is enough.
options:
  state:
    description: Whether to look or to install.
    choices: [probed, present]
    default: present
    type: str
  version:
    description: The toolkit, as in C(13.2).
    type: str
    required: true
  repository_url:
    description: Where NVIDIA's repositories for all systems are.
    type: str
    required: true
  repository_fingerprint:
    description: That of the key of a mirror that signs by itself.
    type: str
    default: ""
  progress:
    description: A file that gets one line about what is happening.
    type: path
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Have CUDA 13.2
  llama.nexus.nvidia_toolkit:
    version: "13.2"
    repository_url: https://developer.download.nvidia.com/compute/cuda/repos
"""
RETURN = r"""
nvcc:
  description: The path of the compiler; empty where it is not there yet.
  returned: always
  type: str
packages:
  description: The packages to install, or installed; empty where the compiler was there.
  returned: always
  type: list
root:
  description: Whether the module ran as root.
  returned: always
  type: bool
"""

import os
import platform

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.hostlib.environment import begin
from ..module_utils.hostlib.files import reason_of, write_line
from ..module_utils.hostlib.programs import ProgramError
from ..module_utils.nvidia import facts as nvidia_facts
from ..module_utils.nvidia.errors import DriverError, NvidiaError
from ..module_utils.nvidia.packages import Manager, Say, manager_of
from ..module_utils.nvidia.repositories import repository
from ..module_utils.nvidia.systems import system_of
from ..module_utils.nvidia.toolkits import toolkit_packages


def install(manager: Manager, packages: tuple[str, ...], address: str, fingerprint: str, say: Say) -> None:
    """Add the repository and install from it."""
    if manager.repository_due(address, driver=False):
        say(f"add NVIDIA's repository {address}")
        manager.add_repository(address, fingerprint, driver=False)
    manager.unfinished(say)
    refresh_errors = manager.refresh(say)
    candidates = manager.candidates(packages)
    missing = [name for name in packages if name not in candidates]
    if missing:
        raise DriverError(
            f"{address} has no {' and no '.join(missing)}: have another host build (llama_cpp_build_host), choose "
            "another toolkit (llama_cpp_cuda_toolkit), or install this one by hand, which is used where its nvcc is on "
            f"PATH or in /usr/local/cuda*{f' ({refresh_errors[:300]})' if refresh_errors else ''}"
        )
    manager.install(packages, say)


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["probed", "present"], "default": "present"},
            "version": {"type": "str", "required": True},
            "repository_url": {"type": "str", "required": True},
            "repository_fingerprint": {"type": "str", "default": ""},
            "progress": {"type": "path"},
        },
        supports_check_mode=True,
    )
    params = module.params
    root = os.geteuid() == 0

    def say(line: str) -> None:
        if params["progress"]:
            write_line(params["progress"], line[:200])

    try:
        nvcc = nvidia_facts.toolkits().get(params["version"], "")
        if nvcc:
            module.exit_json(changed=False, nvcc=nvcc, packages=[], root=root)
        os_release = nvidia_facts.os_release()
        system = system_of(os_release)
        packages = toolkit_packages(system, params["version"])
        manager = manager_of(system, os_release, platform.machine())
        address = repository(params["repository_url"], system, platform.machine())
        if params["state"] == "present" and not module.check_mode:
            if not root:
                raise DriverError(
                    f"CUDA {params['version']} is not here and takes root to install: have root install "
                    f"{' '.join(packages)} from {address}"
                )
            install(manager, packages, address, params["repository_fingerprint"], say)
            nvcc = nvidia_facts.toolkits().get(params["version"], "")
            if not nvcc:
                raise DriverError(
                    f"{' '.join(packages)} is installed, but there is no nvcc of CUDA {params['version']} in "
                    "/usr/local/cuda*: see what the packages brought (dpkg -L, rpm -ql)"
                )
        changed = params["state"] == "present" or module.check_mode
        module.exit_json(changed=changed, nvcc=nvcc, packages=list(packages), root=root)
    except (NvidiaError, DriverError, ProgramError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=reason_of(error))


if __name__ == "__main__":
    main()
