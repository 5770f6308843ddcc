"""Recipe of a release of llama.cpp: its inputs, and its name. Python 3.9's standard library only.

The inputs are all that decides what comes out of the compiler; a release's name ends with a hash of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import re
from collections.abc import Mapping
from typing import Any

from .credentials import public_source
from .errors import ReleaseError

# The types that FlashAttention's vector kernels know, and what "all" stands for.
FA_TYPES = ("bf16", "f16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0")

ARGUMENTS: dict[str, Any] = {
    "ref": {"type": "str", "required": True},
    "commit": {"type": "str", "required": True},
    "source": {"type": "dict", "required": True},
    "backend": {"type": "str", "choices": ["auto", "cpu", "cuda"], "default": "auto"},
    "require_gpu": {"type": "bool", "default": False},
    "portable": {"type": "bool", "default": False},
    "cuda_architectures": {"type": "list", "elements": "str", "default": []},
    "cuda_toolkit": {"type": "str", "default": ""},
    "fa_quants": {"type": "list", "elements": "str", "default": []},
    "cmake_options": {"type": "dict", "default": {}},
    "targets": {"type": "list", "elements": "str", "required": True},
    "web_page": {"type": "str", "choices": ["off", "prebuilt", "npm"], "default": "off"},
}


def cpu_fingerprint() -> str:
    """A short hash of the instruction sets of this processor: a native build runs only where they are."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as stream:
        for line in stream:
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                return hashlib.sha256(" ".join(sorted(value.split())).encode()).hexdigest()[:8]
    return platform.machine()


def checked_fa_quants(pairs: list[str]) -> list[str]:
    """The K-V type pairs to compile FlashAttention for, as CMake takes them; ReleaseError for one that there is not."""
    wanted = {pair.strip().lower() for pair in pairs}
    if "all" in wanted:
        return ["all"]
    known = {f"{key}-{value}" for key in FA_TYPES for value in FA_TYPES}
    for pair in sorted(wanted - known):
        raise ReleaseError(
            f"llama_cpp_fa_quants: {pair} is no pair of a K and a V type, as in q8_0-q4_0; the types are "
            f"{', '.join(FA_TYPES)}, and all stands for every pair"
        )
    return sorted(wanted | {"f16-f16"})  # llama.cpp compiles that one whatever is asked for


def wanted_inputs(
    recipe: Mapping[str, Any], backend: str, architectures: list[str], toolkit: str | None
) -> dict[str, Any]:
    """Everything that decides what comes out of the compiler; the release is named by its hash."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", recipe["ref"]):  # a part of paths, and an argument of git
        raise ReleaseError(f"llama_cpp_ref is {recipe['ref']!r}: name a tag, as in b11434")
    if not recipe["targets"]:
        raise ReleaseError("llama_cpp_targets is empty: name the programs to build, as in [llama-server]")
    source = public_source(recipe["source"])
    inputs: dict[str, Any] = {
        "ref": recipe["ref"],
        "commit": recipe["commit"],
        "source": source,
        "backend": backend,
        "machine": platform.machine(),
        "targets": sorted(recipe["targets"]),
    }
    if source["kind"] == "binary":
        return inputs
    cuda = backend == "cuda"
    return {
        **inputs,
        "cuda_architectures": architectures,
        "cuda_toolkit": toolkit if cuda else None,
        "fa_quants": checked_fa_quants(recipe["fa_quants"]) if cuda else [],
        "cpu": "portable" if recipe["portable"] else cpu_fingerprint(),
        "cmake_options": {key: str(value) for key, value in sorted(recipe["cmake_options"].items())},
        "web_page": recipe["web_page"],
    }


def release_name(inputs: dict[str, Any]) -> str:
    """Version, backend and architectures, for people; a hash of all inputs, for the rest."""
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:8]
    return f"{inputs['ref']}-{inputs['backend']}{'-'.join(inputs.get('cuda_architectures', []))}-{digest}"


def build_number(ref: str) -> str | None:
    """The number of an upstream tag such as b11434."""
    number = re.fullmatch(r"b(\d+)", ref)
    return number.group(1) if number else None
