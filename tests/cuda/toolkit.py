"""The toolkit, made of the packages that NVIDIA has in the package index, in the shape of /usr/local/cuda."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.support import wheels

TOOLKIT = "13.2"
PACKAGES = Path(__file__).with_name("toolkit.txt")


def make(cache: Path) -> Path:
    """The toolkit's folder below ``cache``, made on the first call: half a gigabyte is fetched."""
    made_of = PACKAGES.read_text() + Path(__file__).read_text()
    return wheels.kept(cache, f"cuda-{TOOLKIT}", made_of, _make) / "nvidia/cu13"


def _make(folder: Path) -> None:
    wheels.install(PACKAGES.read_text(), folder)
    toolkit = folder / "nvidia/cu13"
    for program in [*(toolkit / "bin").iterdir(), *(toolkit / "nvvm/bin").iterdir()]:
        program.chmod(0o755)
    # Wheels hold no links, and no stand-in for the driver's own library.
    (toolkit / "lib64").symlink_to("lib")
    for library in list((toolkit / "lib").glob("lib*.so.13")):
        (toolkit / "lib" / library.stem).symlink_to(library.name)
    stubs = toolkit / "lib/stubs"
    stubs.mkdir()
    compiler = shutil.which("gcc") or "cc"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-x", "c", "-", "-Wl,-soname,libcuda.so.1", "-o", stubs / "libcuda.so"],
        input=b"void nothing(void) {}\n", check=True,
    )  # fmt: skip
