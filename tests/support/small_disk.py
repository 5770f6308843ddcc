"""A file system of a test's own, of a size that it can fill; only root can mount one.

with small_disk.mounted(tmp_path / "disk", "2m"):
    ...
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import wait_for

needs_mount = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="only root can mount the small file system"
)


@contextlib.contextmanager
def mounted(folder: Path, size: str, *, mode: str = "700") -> Iterator[None]:
    """``folder`` is a file system of ``size`` (mount's spelling, such as ``2m``) for as long as the block lasts.

    What ran on it may end a moment after the test has killed it, and a container that another test starts meanwhile
    has a copy of every mount for a moment: its end is waited for.
    """
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode={mode}", "none", folder], check=True)
    try:
        yield
    finally:
        wait_for(lambda: _unmounted(folder), f"{folder} to be free")


def removed(folder: Path) -> bool:
    """Remove an empty folder on which a file system was mounted; False while a copy of that mount still exists."""
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def _unmounted(folder: Path) -> bool:
    return subprocess.run(["umount", folder], check=False, capture_output=True).returncode == 0
