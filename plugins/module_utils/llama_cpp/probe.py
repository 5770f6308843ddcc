"""Probe of a host: what it would build, and what it has for that. Python 3.9's standard library only.

Nothing is changed.
"""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..nvidia import facts as nvidia_facts
from ..nvidia import toolkits
from ..nvidia.versions import version
from .build import require_room
from .errors import ReleaseError
from .recipe import release_name, wanted_inputs
from .release import known_flags, read_manifest, releases
from .tools import find_compiler, find_tool, may_install

Gpus = Sequence[Mapping[str, Any]]


class Probe(NamedTuple):
    """A look at a host, before a build."""

    inputs: dict[str, Any]
    """Everything that decides what comes out of the compiler."""
    tools: dict[str, Any]
    """The paths of programs by their names; None for those that are not there."""
    result: dict[str, Any]
    """The result that the module llama_cpp_release returns."""


def probe(params: Mapping[str, Any], *, check_mode: bool) -> Probe:
    """Look at this host. Raises ReleaseError and NvidiaError where it can't build what is asked for.

    Args:
        params: those of the module llama_cpp_release. With ``inputs`` this is the host that builds for others.
    """
    prefix, tools_path, recipe = params["prefix"], params["tools_path"], params["recipe"]
    here = nvidia_facts.toolkits(tools_path)
    gpus: Gpus = []
    if params["inputs"] is None:
        gpus = find_gpus(recipe, platform.node(), check_mode=check_mode)
        inputs = decide(recipe, gpus, here)
    else:
        inputs = params["inputs"]
        if inputs["machine"] != platform.machine():
            raise ReleaseError(
                f"{platform.node()} can't build for {inputs['machine']}, it is {platform.machine()}: name another host "
                "in llama_cpp_build_host"
            )
    tools = {
        "compiler": find_compiler(),
        "cmake": find_tool("cmake", tools_path),
        "ninja": find_tool("ninja", tools_path),
        "git": find_tool("git", None),
        "npm": find_tool("npm", None),
        "nvcc": here.get(inputs.get("cuda_toolkit") or ""),
    }
    missing = [tool for tool in needed_tools(inputs) if not tools[tool]]
    name = release_name(inputs)
    path = os.path.join(prefix, "releases", name)
    link = os.path.join(prefix, "current")
    manifest = read_manifest(path, inputs)
    if manifest and manifest.flags is None:
        manifest = dataclasses.replace(manifest, flags=known_flags(path, inputs["targets"]))
    if params["inputs"] and not manifest:  # this is the host that is to build it
        require_room(prefix, inputs, name)
    result = {
        "name": name,
        "path": path,
        "inputs": inputs,
        "present": manifest is not None,
        "current": os.path.realpath(link) if os.path.islink(link) else "",
        "releases": list(releases(prefix)),
        "missing": missing,
        "can_install": bool(missing) and may_install(),
        "root": os.geteuid() == 0,
        "package_manager": "apt" if find_tool("apt-get", None) else "dnf",
        "gpus": gpus,
        "manifest": manifest.as_json() if manifest else {},
    }
    return Probe(inputs, tools, result)


def find_gpus(recipe: Mapping[str, Any], host: str, *, check_mode: bool) -> Gpus:
    """The GPUs that work; in check mode, where a driver would be installed, those on the bus."""
    seen = nvidia_facts.look()
    if seen.problem and check_mode and all(gpu["compute_cap"] for gpu in seen.bus):
        return seen.bus
    if seen.problem and recipe["require_gpu"]:
        raise ReleaseError(
            f"no working NVIDIA GPU on {host}: {seen.problem}; or set llama_cpp_require_gpu: false for this host to "
            "serve on the processor"
        )
    return seen.gpus


def decide(recipe: Mapping[str, Any], gpus: Gpus, here: Mapping[str, str]) -> dict[str, Any]:
    """The inputs of the release that a recipe makes for these GPUs.

    Args:
        here: the compilers of CUDA by their versions.
    """
    backend, architectures, toolkit = choose_backend(recipe, gpus), [], None
    if backend == "cuda" and recipe["source"]["kind"] != "binary":
        architectures = choose_architectures(recipe, gpus, platform.node())
        toolkit = choose_toolkit(recipe, architectures, gpus, here)
    return wanted_inputs(recipe, backend, architectures, toolkit)


def choose_backend(recipe: Mapping[str, Any], gpus: Gpus) -> str:
    """``cpu`` or ``cuda``."""
    wanted: str = recipe["backend"]
    if wanted != "auto":
        return wanted
    return "cuda" if gpus else "cpu"


def choose_architectures(recipe: Mapping[str, Any], gpus: Gpus, host: str) -> list[str]:
    """Architectures to compile for, as CMake writes them. Raises ReleaseError where nothing says."""
    # The driver's own word, never a guess from the card's name: equal names hide different chips.
    architectures = set(recipe["cuda_architectures"]) or {gpu["compute_cap"].replace(".", "") for gpu in gpus}
    if not architectures:
        raise ReleaseError(
            f"no GPU on {host} says what to compile for: set llama_cpp_cuda_architectures, for example ['89']"
        )
    return sorted(architectures, key=lambda name: (len(name), name))


def choose_toolkit(recipe: Mapping[str, Any], architectures: Sequence[str], gpus: Gpus, here: Mapping[str, str]) -> str:
    """The version of the CUDA toolkit: the one asked for, one that is here and fits, or the one to install.

    Raises NvidiaError where none fits.
    """
    driver = min((gpu["driver"] for gpu in gpus if gpu["driver"]), default=None, key=version)
    wanted: str = recipe["cuda_toolkit"]
    if wanted:
        toolkits.check_toolkit(wanted, architectures, driver)
        return wanted
    fitting = [version_here for version_here in here if toolkits.fits(version_here, architectures, driver)]
    if fitting and not recipe["portable"]:  # which is named by what is declared, not by what its builder has
        return fitting[0]
    return toolkits.toolkit_for(architectures, driver)


def needed_tools(inputs: Mapping[str, Any]) -> list[str]:
    """The programs that a build takes."""
    kind = inputs["source"]["kind"]
    if kind == "binary":
        return []
    needed = ["compiler", "cmake", "ninja"]
    needed += ["git"] if kind == "git" else []
    needed += ["npm"] if inputs["web_page"] == "npm" else []
    needed += ["nvcc"] if inputs["backend"] == "cuda" else []
    return needed
