"""Pinned packages of the package index that tests need beside the environment: installed once, into the tests' cache.

folder = kept(cache_folder(), "cuda-13.2", PACKAGES.read_text(), make)      # make(folder) where it isn't there yet
install(PACKAGES.read_text(), folder)
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.locks import lock

PINNED = re.compile(r"^([\w.-]+)==[^\n]*\n(?: {4}--hash[^\n]*\n?)*", re.MULTILINE)


def kept(cache: Path, name: str, made_of: str, make: Callable[[Path], None]) -> Path:
    """The folder ``name-HASH`` below the cache: made by the first that asks, while others wait for it.

    Args:
        made_of: a text that changes when the folder is to be made again.
        make: fills an empty folder.
    """
    folder = cache / f"{name}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"
    with lock(cache / f"{name}.lock"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=cache, prefix=f"{name}-") as made:
                make(Path(made) / "made")
                (Path(made) / "made").rename(folder)
    return folder


def install(requirements: str, folder: Path) -> None:
    """Install wheels into a folder as on PYTHONPATH: these and nothing that they need, each by its hash."""
    pip: list[str | Path] = [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-cache-dir",
        "--require-hashes", "--only-binary", ":all:", "--root-user-action", "ignore",
        "--requirement", "/dev/stdin", "--target", folder,
    ]  # fmt: skip
    subprocess.run(pip, check=True, input=requirements, text=True)


def added(lock_file: Path, to: Path) -> str:
    """The entries of a lock file, hashes included, whose packages another does not have."""
    there = {entry[1] for entry in PINNED.finditer(to.read_text())}
    return "".join(entry[0] for entry in PINNED.finditer(lock_file.read_text()) if entry[1] not in there)
