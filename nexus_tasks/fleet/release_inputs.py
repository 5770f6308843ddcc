"""Inputs of a release: all that decides what comes out of the compiler, in words.

    differences(own, other, ALIKE)     ["b11401 instead of b11434", "CUDA toolkit 12.8 instead of 12.9"]

Inputs are those of a release's manifest (docs/records.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Inputs = Mapping[str, Any]


def backend(inputs: Inputs) -> str:
    """The kind of processor that it computes on: ``CUDA`` or ``CPU``."""
    return str(inputs["backend"]).upper()


def portable(inputs: Inputs) -> str | None:
    """``portable``, or ``native`` where it needs a processor like the one it was built on; None if not compiled."""
    cpu = inputs.get("cpu")
    return None if cpu is None else "portable" if cpu == "portable" else "native"


def source(inputs: Inputs) -> str:
    """The place that the source was from."""
    given: Mapping[str, Any] = inputs["source"]
    match given["kind"]:
        case "pypi":
            return f"{given['package']} {given['version']}"
        case "binary":
            return "upstream's binaries"
        case kind:
            return f"{kind} {given.get('url', '')}".strip()


def _instruction_sets(inputs: Inputs) -> str | None:
    return str(inputs["cpu"]) if portable(inputs) == "native" else None


def _options(inputs: Inputs) -> str | None:
    options = inputs.get("cmake_options")
    return None if options is None else ", ".join(f"{key}={value}" for key, value in options.items()) or "none"


# What a release is made of: what comes before the value in words, and the value; None where it does not apply.
ASPECTS: dict[str, tuple[str, Callable[[Inputs], str | None]]] = {
    "version": ("", lambda inputs: str(inputs["ref"])),
    "commit": ("commit", lambda inputs: str(inputs["commit"])[:9]),
    "backend": ("", backend),
    "machine": ("", lambda inputs: inputs["machine"]),
    "architectures": ("architectures", lambda inputs: ", ".join(inputs.get("cuda_architectures") or ()) or None),
    "toolkit": ("CUDA toolkit", lambda inputs: inputs.get("cuda_toolkit")),
    "kernels": ("FlashAttention for", lambda inputs: ", ".join(inputs.get("fa_quants") or ()) or None),
    "processor": ("", portable),
    "instruction sets": ("instruction sets", _instruction_sets),
    "options": ("CMake options", _options),
    "page": ("web page", lambda inputs: inputs.get("web_page")),
    "programs": ("programs", lambda inputs: ", ".join(inputs["targets"])),
    "source": ("source", source),
}
# What is compared between hosts of the same kind, and between any two.
ALIKE = ("version", "commit", "toolkit", "kernels", "processor", "options", "page", "programs")
ANYWHERE = ("version", "commit")


def differences(own: Inputs, other: Inputs, names: Iterable[str]) -> list[str]:
    """Differences of the inputs of a release from another's, in words; what one of them does not say is none."""
    changes = []
    for name in names:
        label, text = ASPECTS[name]
        mine, theirs = text(own), text(other)
        if mine and theirs and mine != theirs and not (name == "commit" and own["ref"] != other["ref"]):
            changes.append(f"{label} {mine} instead of {theirs}".strip())
    return changes
