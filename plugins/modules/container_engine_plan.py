#!/usr/bin/python
"""Ansible module: what it takes until the Docker engine of this host hands its GPUs to containers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_engine_plan
short_description: Look at a host's Docker engine and decide what is missing
description:
  - Changes nothing. In check mode C(changed) says whether something is missing.
  - What can't be brought about does not fail the module; C(problem) says why.
options:
  packages:
    description: The packages of the engine, in place of those that the system's table names.
    type: list
    elements: str
    default: []
  toolkit_version:
    description: The version of nvidia-container-toolkit that there must be. Empty, any from the minimum on.
    type: str
    default: ""
  toolkit_url:
    description: The repository of nvidia-container-toolkit, above C(deb/) and C(rpm/).
    type: str
    required: true
  toolkit_key_url:
    description: Where its key is.
    type: str
    required: true
  toolkit_key_fingerprint:
    description: The fingerprint of its key. Empty, that of NVIDIA's.
    type: str
    default: ""
  docker_url:
    description: Docker's repository for the RHEL family.
    type: str
    required: true
  docker_key_url:
    description: Where its key is.
    type: str
    required: true
  docker_key_fingerprint:
    description: The fingerprint of its key. Empty, that of Docker's.
    type: str
    default: ""
  state:
    description: The file in which C(container_engine_check) keeps what it saw.
    type: path
    required: true
author: Llama Nexus
"""
EXAMPLES = r"""
- name: See what is missing
  llama.nexus.container_engine_plan:
    toolkit_url: https://nvidia.github.io/libnvidia-container/stable
    toolkit_key_url: https://nvidia.github.io/libnvidia-container/gpgkey
    docker_url: https://download.docker.com/linux/rhel
    docker_key_url: https://download.docker.com/linux/rhel/gpg
    state: /var/lib/llama-nexus/container_engine.json
"""
RETURN = r"""
steps:
  description: What is to be done, a sentence each.
  returned: always
  type: list
notes:
  description: What is left out, and why.
  returned: always
  type: list
problem:
  description: Why it can't be done, and what to do; empty where it can.
  returned: always
  type: str
disruptive:
  description: Whether containers that run may lose their GPUs, so that servers are to be stopped first.
  returned: always
  type: bool
found:
  description: Versions of docker, toolkit and driver, and the UUIDs of the GPUs.
  returned: always
  type: dict
keys:
  description: The keys of repositories to fetch, each with url, fingerprint and path.
  returned: always
  type: list
files:
  description: The files to write, each with path and content.
  returned: always
  type: list
packages:
  description: The packages to install, as C(manager) is told.
  returned: always
  type: list
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.container_engine.decisions import DOCKER_FINGERPRINT, TOOLKIT_FINGERPRINT, Wanted, decide
from ..module_utils.container_engine.facts import look
from ..module_utils.hostlib.environment import begin


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "default": []},
            "toolkit_version": {"type": "str", "default": ""},
            "toolkit_url": {"type": "str", "required": True},
            "toolkit_key_url": {"type": "str", "required": True, "no_log": False},
            "toolkit_key_fingerprint": {"type": "str", "default": "", "no_log": False},
            "docker_url": {"type": "str", "required": True},
            "docker_key_url": {"type": "str", "required": True, "no_log": False},
            "docker_key_fingerprint": {"type": "str", "default": "", "no_log": False},
            "state": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    wanted = Wanted(
        toolkit_url=given["toolkit_url"],
        toolkit_key_url=given["toolkit_key_url"],
        docker_url=given["docker_url"],
        docker_key_url=given["docker_key_url"],
        toolkit_fingerprint=given["toolkit_key_fingerprint"].replace(" ", "").upper() or TOOLKIT_FINGERPRINT,
        docker_fingerprint=given["docker_key_fingerprint"].replace(" ", "").upper() or DOCKER_FINGERPRINT,
        toolkit_version=given["toolkit_version"].partition("-")[0],  # the revision is the package manager's
        packages=tuple(given["packages"]),
    )
    facts = look(given["state"])
    plan = decide(facts, wanted)
    module.exit_json(changed=module.check_mode and bool(plan.steps), found=facts.checkable(), **asdict(plan))


if __name__ == "__main__":
    main()
