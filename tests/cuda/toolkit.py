"""The toolkit, made of the packages that NVIDIA has in the package index, in the shape of /usr/local/cuda."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

TOOLKIT = "13.2"
PACKAGES = Path(__file__).with_name("toolkit.txt")


def make(cache: Path) -> Path:
    """The toolkit's folder below ``cache``, made on the first call: half a gigabyte is fetched."""
    made_of = hashlib.sha256(PACKAGES.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:12]
    folder = cache / f"cuda-{TOOLKIT}-{made_of}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "cuda.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=cache, prefix="cuda-") as made:
                _make(Path(made))
                (Path(made) / "nvidia/cu13").rename(folder)
    return folder


def _make(folder: Path) -> None:
    pip: list[str | Path] = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
        "--no-cache-dir", "--require-hashes", "--only-binary", ":all:", "-r", PACKAGES, "-d", folder,
    ]  # fmt: skip
    subprocess.run(pip, check=True)
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        wheel.unlink()
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
