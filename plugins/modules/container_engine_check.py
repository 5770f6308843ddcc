#!/usr/bin/python
"""Ansible module: whether the Docker engine gives a GPU of this host to a container, seen in a container."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_engine_check
short_description: Run a container with one GPU, and see that it has that one
description:
  - The container is confined as those of role llama_server are, and runs C(nvidia-smi -L), which the toolkit brings.
  - Its image is made of the host's own C library and removed afterwards, unless one is named. No registry is asked.
  - What was seen is written down with the versions, so that it need not be looked at again before one of them changes.
options:
  image:
    description: An image to run, pulled where it is not there. Empty, one is made.
    type: str
    default: ""
  state:
    description: The file for what was seen.
    type: path
    required: true
author: Llama Nexus
"""
EXAMPLES = r"""
- name: See that a container is given a GPU
  llama.nexus.container_engine_check:
    state: /var/lib/llama-nexus/container_engine.json
"""
RETURN = r"""
gpu:
  description: The UUID of the GPU that the container had.
  returned: always
  type: str
seen:
  description: Versions of docker, toolkit and driver, and the UUIDs of the host's GPUs.
  returned: always
  type: dict
"""

import json

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.container_engine.decisions import cause, devices
from ..module_utils.container_engine.engine import EngineError
from ..module_utils.container_engine.facts import look
from ..module_utils.container_engine.gpu_check import image_of_host, remove_image, run_with_gpu
from ..module_utils.hostlib.environment import begin
from ..module_utils.hostlib.files import write_file
from ..module_utils.nvidia import facts as nvidia_facts


def check(image: str, gpus: list[str]) -> str:
    """Run the container and return the GPU that it had; EngineError where it had another, or none."""
    wanted = gpus[-1]  # which is not the one that a container would be given that is given any
    made = image or image_of_host()
    try:
        code, output = run_with_gpu(made, wanted)
    finally:
        if not image:
            remove_image(made)
    if code != 0:
        raise EngineError(f"a container is not given a GPU: {cause(output)}")
    seen = devices(output)
    if seen != [wanted]:
        raise EngineError(
            f"a container that should be given {wanted} sees {', '.join(seen) or 'no GPU'}: look at "
            "/etc/nvidia-container-runtime/config.toml, and at the runtime nvidia in docker's daemon.json"
        )
    return wanted


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={"image": {"type": "str", "default": ""}, "state": {"type": "path", "required": True}}
    )
    state = module.params["state"]
    facts = look(state)
    seen = facts.checkable()
    if not facts.gpus:
        why = nvidia_facts.look().problem or "nvidia-smi shows none"
        module.fail_json(msg=f"a container can't be given a GPU, because none works on this host: {why}")
    try:
        gpu = check(module.params["image"], facts.gpus)
        write_file(state, json.dumps(seen, indent=2) + "\n", parents=True)
    except EngineError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{state} can't be written: {error.strerror}")
    module.exit_json(changed=facts.checked != seen, gpu=gpu, seen=seen)


if __name__ == "__main__":
    main()
