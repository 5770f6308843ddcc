"""CUDA toolkits: which one compiles for a GPU, what its driver must be, and which packages it is made of.

Architectures are written as CMake does, ``89``. Python 3.9's standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from .errors import NvidiaError
from .systems import System
from .versions import version

# The toolkits that are installed where none is that fits; the first that does. 12.9 is the last for Volta and older;
# from 12.8 to the first update of 13.2 the compiler may produce wrong code for nested divergence, and packages of 13.2
# are those of its second update.
TOOLKITS = ("13.2", "12.9")

# Compute capability: the first toolkit that compiles for it, and the last (None while there is none).
# From the release notes of CUDA 11.1 to 13.0.
COMPILES: dict[str, tuple[str, str | None]] = {
    "50": ("6.5", "12.9"),
    "52": ("6.5", "12.9"),
    "60": ("8.0", "12.9"),
    "61": ("8.0", "12.9"),
    "70": ("9.0", "12.9"),
    "75": ("10.0", None),
    "80": ("11.0", None),
    "86": ("11.1", None),
    "89": ("11.8", None),
    "90": ("11.8", None),
    "100": ("12.8", None),
    "103": ("12.9", None),
    "120": ("12.8", None),
    "121": ("12.9", None),
}

# Toolkit (major version): the oldest driver on which what it compiled runs, by CUDA's minor version compatibility.
NEEDS_DRIVER = {11: "450", 12: "525", 13: "580"}


def check_toolkit(toolkit: str, architectures: Iterable[str], driver: str | None) -> None:
    """NvidiaError where a toolkit can't compile for an architecture, or the driver can't run what it makes.

    Args:
        toolkit: its version, as in ``12.9``.
        architectures: as CMake writes them, with or without ``a``, ``f``, ``-real`` and ``-virtual``.
        driver: the driver's version; None where there is none yet, and then any will do.
    """
    if not re.fullmatch(r"\d+\.\d+", toolkit):
        raise NvidiaError(
            f"CUDA toolkit {toolkit}: write its version with one dot, as in 13.0 (llama_cpp_cuda_toolkit)"
        )
    for architecture in architectures:
        number = re.sub(r"[af]?(-real|-virtual)?$", "", architecture)
        if number not in COMPILES:
            raise NvidiaError(
                f"compute capability {architecture} is none that is known here ({', '.join(COMPILES)}): check "
                "llama_cpp_cuda_architectures"
            )
        first, last = COMPILES[number]
        if version(toolkit) < version(first):
            raise NvidiaError(
                f"CUDA {toolkit} can't compile for compute capability {number}, which needs {first} or newer: set "
                "llama_cpp_cuda_toolkit to such a version, or leave it out"
            )
        if last and version(toolkit) > version(last):
            raise NvidiaError(
                f"CUDA {toolkit} can't compile for compute capability {number} any more, the last that could is "
                f"{last}: set llama_cpp_cuda_toolkit: '{last}', or leave it out"
            )
    needed = NEEDS_DRIVER.get(version(toolkit)[0])
    if driver and needed and version(driver) < version(needed):
        raise NvidiaError(
            f"driver {driver} is too old for CUDA {toolkit}, which needs {needed} or newer: set nvidia_driver_upgrade: "
            "true to have the driver replaced, or llama_cpp_cuda_toolkit to an older version"
        )


def fits(toolkit: str, architectures: Iterable[str], driver: str | None) -> bool:
    """True for a toolkit that compiles for these architectures what this driver runs."""
    try:
        check_toolkit(toolkit, architectures, driver)
    except NvidiaError:
        return False
    return True


def toolkit_for(architectures: Sequence[str], driver: str | None) -> str:
    """The version of the toolkit to install for these architectures; NvidiaError where none of ours fits."""
    for toolkit in TOOLKITS:
        if fits(toolkit, architectures, driver):
            return toolkit
    for toolkit in TOOLKITS:  # the reason of the one that compiles for them
        if fits(toolkit, architectures, None):
            check_toolkit(toolkit, architectures, driver)
    check_toolkit(TOOLKITS[0], architectures, driver)
    raise NvidiaError(f"no CUDA toolkit compiles for {' and '.join(architectures)} together: build them apart")


def toolkit_packages(system: System, toolkit: str) -> tuple[str, ...]:
    """The packages of a CUDA toolkit: compiler, runtime, cuBLAS. NvidiaError where the system's folder has none."""
    if not re.fullmatch(r"\d+\.\d+", toolkit):
        raise NvidiaError(f"CUDA toolkit {toolkit}: write its version with one dot, as in 13.0")
    if version(toolkit) < version(system.first_toolkit):
        raise NvidiaError(
            f"NVIDIA's repository for {system.name} begins with CUDA {system.first_toolkit}, so CUDA {toolkit} can't "
            "be installed here: have another host build (llama_cpp_build_host), or install that toolkit by hand, which "
            "is used where its nvcc is on PATH or in /usr/local/cuda*"
        )
    dashed = toolkit.replace(".", "-")
    dev = "dev" if system.manager == "apt" else "devel"
    return (f"cuda-nvcc-{dashed}", f"cuda-cudart-{dev}-{dashed}", f"libcublas-{dev}-{dashed}", f"cuda-cccl-{dashed}")
