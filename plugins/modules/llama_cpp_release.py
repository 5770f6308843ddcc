#!/usr/bin/python
"""Ansible module: a release of llama.cpp, made for this host or another and kept in a folder of its own."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_cpp_release
short_description: Make a release of llama.cpp
description:
  - A release is the folder C(prefix/releases/REF-BACKEND-HASH). Its manifest holds what it was made from; the hash is
    that of these inputs, so other inputs make another release and unchanged ones are never built again.
  - With C(state=probed) it finds out what the host has, what would be built, and whether that is there already.
  - With C(state=built) it fetches the source, compiles and installs. A release gets its name last, by a rename; a
    build that was cut short is taken up where it stopped.
options:
  state:
    description: Whether to look or to build.
    choices: [probed, built]
    default: built
    type: str
  prefix:
    description: The folder that holds releases/, build/ and the link current.
    type: path
    required: true
  recipe:
    description: Everything that decides what comes out of the compiler. Either this or C(inputs).
    type: dict
    suboptions:
      ref:
        description: The upstream tag. It names the release.
        type: str
        required: true
      commit:
        description:
          - The full hash of the commit that the tag stands for. A source that says it holds another one is refused; an
            archive of the source says nothing, its C(sha256) vouches for it.
        type: str
        required: true
      source:
        description:
          - Where it comes from. C(kind) is C(git) (with C(url)), C(archive) (with C(url), an address or a file on the
            host, and C(sha256)), C(pypi) (with C(package), C(version) and C(sha256) of a source package, and C(tree),
            the id that git gives the tree in it), or C(binary) (with C(archives), a list of C(url) and C(sha256)),
            which is not compiled.
        type: dict
        required: true
      backend:
        description: C(auto) is C(cuda) on a host with a working NVIDIA driver, else C(cpu).
        choices: [auto, cpu, cuda]
        default: auto
        type: str
      require_gpu:
        description: Whether a host without a working GPU is an error.
        type: bool
        default: false
      portable:
        description: Whether the release runs on every processor of this kind, instead of on those like this host's.
        type: bool
        default: false
      cuda_architectures:
        description: Compute capabilities to compile for, as in C(["90"]). Without any, those of the GPUs found.
        type: list
        elements: str
        default: []
      cuda_toolkit:
        description: The CUDA toolkit, as in C(12.9). Without one, one that fits GPUs and driver.
        type: str
        default: ""
      fa_quants:
        description: Pairs of K and V cache types that FlashAttention is compiled for, or C(all).
        type: list
        elements: str
        default: []
      cmake_options:
        description: Further CMake options.
        type: dict
        default: {}
      targets:
        description: The programs to build.
        type: list
        elements: str
        required: true
      web_page:
        description: Whether the server holds llama.cpp's web page, and whether it is downloaded or built with npm.
        choices: ["off", prebuilt, npm]
        default: "off"
        type: str
  inputs:
    description: What the release is made of, as it was found with C(state=probed) on the host that it is for.
    type: dict
  source:
    description: The recipe's C(source) again, for C(inputs), which are without the credentials of its addresses.
    type: dict
  jobs:
    description: Compiler processes at a time. 0 is one a processor.
    type: int
    default: 0
  tools_path:
    description: A folder of tools that is searched before PATH.
    type: path
  progress:
    description: A file that is kept at one line saying how far the build is.
    type: path
author: Llama Nexus
"""
EXAMPLES = r"""
- name: See what would be built
  llama.nexus.llama_cpp_release:
    state: probed
    prefix: /opt/llama-nexus
    recipe:
      ref: b11434
      commit: 5e03bdd8700948b9c41c54dd1b00f28a2aebc03f
      source: {kind: git, url: "https://github.com/ggml-org/llama.cpp.git"}
      targets: [llama-server]
"""
RETURN = r"""
name:
  description: The release's name.
  returned: always
  type: str
path:
  description: The release's folder.
  returned: always
  type: str
inputs:
  description: What it is made of.
  returned: always
  type: dict
present:
  description: Whether the release is there, whole, before this call.
  returned: always
  type: bool
current:
  description: What the link current points at, or an empty string.
  returned: always
  type: str
releases:
  description: The names of all releases on the host, the newest first.
  returned: always
  type: list
missing:
  description: What a build needs and this host lacks, of compiler, cmake, ninja, git, npm and nvcc.
  returned: always
  type: list
can_install:
  description: Whether something is missing and this user may install packages.
  returned: always
  type: bool
root:
  description: Whether this user is root.
  returned: always
  type: bool
package_manager:
  description: What installs packages here, apt or dnf.
  returned: always
  type: str
gpus:
  description: The GPUs that the driver shows, each with name, compute_cap, driver and memory_mib.
  returned: always
  type: list
manifest:
  description: The release's manifest, where it is there.
  returned: always
  type: dict
log:
  description: The build's log.
  returned: state=built
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.hostlib.environment import begin
from ..module_utils.hostlib.files import reason_of
from ..module_utils.llama_cpp.build import build
from ..module_utils.llama_cpp.credentials import secrets_of
from ..module_utils.llama_cpp.errors import ReleaseError
from ..module_utils.llama_cpp.probe import probe
from ..module_utils.llama_cpp.recipe import ARGUMENTS
from ..module_utils.nvidia.errors import NvidiaError


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["probed", "built"], "default": "built"},
            "prefix": {"type": "path", "required": True},
            "recipe": {"type": "dict", "options": ARGUMENTS},
            "inputs": {"type": "dict"},
            "source": {"type": "dict"},
            "jobs": {"type": "int", "default": 0},
            "tools_path": {"type": "path"},
            "progress": {"type": "path"},
        },
        required_one_of=[("recipe", "inputs")],
        mutually_exclusive=[("recipe", "inputs")],
        supports_check_mode=True,
    )
    params = module.params
    params["source"] = params["source"] or (params["recipe"] or params["inputs"])["source"]
    module.no_log_values |= secrets_of(params["source"])
    try:
        inputs, tools, result = probe(params, check_mode=module.check_mode)
        if params["state"] == "probed":
            module.exit_json(changed=False, **result)
        if result["present"] or module.check_mode:
            module.exit_json(changed=not result["present"], **result)
        if result["missing"]:
            raise ReleaseError(f"this host lacks {', '.join(result['missing'])} to build llama.cpp")
        manifest, log = build(params, inputs, result["name"], tools)
        module.exit_json(**{**result, "changed": True, "manifest": manifest.as_json(), "log": log})
    except (ReleaseError, NvidiaError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=reason_of(error))


if __name__ == "__main__":
    main()
