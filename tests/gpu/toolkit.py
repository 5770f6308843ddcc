"""A CUDA toolkit of what a machine has in several places: a compiler here, cuBLAS among Python's packages there.

Machines for PyTorch often have the compiler alone, or one behind a wrapper script, and NVIDIA's libraries as the
packages that PyTorch needs. llama.cpp's build wants one folder with all of it. Python 3.9's standard library only.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

HEADER, LIBRARY = "cublas_v2.h", "libcublas.so"


def find_nvcc() -> str | None:
    """The compiler on PATH, else the host's default."""
    return shutil.which("nvcc", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin"]))


def root_of(nvcc: str) -> Path | None:
    """The folder of the toolkit that a compiler says it is of, be it started by a script or a link."""
    done = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", os.devnull], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    found = re.search(r"^#\$ TOP=(.+)$", done.stdout.decode(errors="replace"), re.MULTILINE)
    return Path(found[1]).resolve() if found else None


def is_whole(nvcc: str, root: Path) -> bool:
    """Whether a build finds all of it by the compiler's path."""
    return (
        Path(nvcc).resolve().parent.parent == root
        and (root / "include" / HEADER).exists()
        and (root / "lib64" / LIBRARY).exists()
    )


def complete(into: Path, nvcc: str, root: Path, sites: Iterable[str]) -> list[str]:
    """Make the folder ``into`` of links to a toolkit and to what Python's packages have beside it.

    Args:
        sites: folders of Python packages.

    Returns:
        What is still missing.
    """
    shutil.rmtree(into, ignore_errors=True)
    (into / "bin").mkdir(parents=True)
    # It finds its own parts from where it really lies, and no headers but those. CMake leaves out the folder of headers
    # that it takes for the compiler's own.
    compiler = into / "bin/nvcc"
    compiler.write_text(f'#!/bin/sh\nexec "{nvcc}" -I "{into}/include" "$@"\n', encoding="utf-8")
    compiler.chmod(0o755)
    for name in ("include", "lib64"):
        (into / name).mkdir()
        link_all(root / name, into / name)
    for packages in packages_of(sites):
        link_all(packages / "include", into / "include")
        link_all(packages / "lib", into / "lib64")
    for library in sorted((into / "lib64").glob("lib*.so.*")):  # packages have no links for the linker
        plain = library.with_name(library.name.partition(".so")[0] + ".so")
        if not plain.exists():
            plain.symlink_to(library.name)
    stub = into / "lib64/stubs/libcuda.so"
    if not stub.exists() and (driver := driver_library()):
        if stub.parent.is_symlink():
            stub.parent.unlink()
        stub.parent.mkdir(exist_ok=True)
        stub.symlink_to(driver)
    wanted = {f"include/{HEADER}": HEADER, f"lib64/{LIBRARY}": LIBRARY, "lib64/stubs/libcuda.so": "libcuda.so"}
    return [name for path, name in wanted.items() if not (into / path).exists()]


def packages_of(sites: Iterable[str]) -> Iterator[Path]:
    """The folders of NVIDIA's packages: nvidia/cu13 for all of one version, or nvidia/cublas and others."""
    for site in dict.fromkeys(sites):
        yield from sorted(path for path in Path(site).glob("nvidia/*") if (path / "lib").is_dir())


def link_all(folder: Path, into: Path) -> None:
    """Link what is in a folder; what is there stays."""
    for path in sorted(folder.glob("*")) if folder.is_dir() else ():
        if not os.path.lexists(into / path.name):
            (into / path.name).symlink_to(path.resolve())


def driver_library() -> str | None:
    """The driver's own libcuda, to link with."""
    done = subprocess.run(["/sbin/ldconfig", "-p"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    found = re.findall(r"libcuda\.so\.1 .*=> (\S+)", done.stdout.decode(errors="replace"))
    search = [
        *os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep),
        "/usr/local/nvidia/lib64",
        "/usr/local/nvidia/lib",
    ]
    found += [f"{folder}/libcuda.so.1" for folder in search if folder]
    return next((path for path in found if Path(path).exists()), None)
