"""Room on the disk. Python 3.9's standard library only."""

from __future__ import annotations

import os
import shutil


def free_mib(path: str) -> int:
    """Free space, in MiB, of the file system on which a path is or would be."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free >> 20


def no_space(prefix: str) -> str:
    """The message about a full disk."""
    return (
        f"no space left on the file system of {prefix} ({free_mib(prefix)} MiB free): make room, or set "
        "llama_nexus_prefix to a larger disk; the releases that were there are untouched"
    )
