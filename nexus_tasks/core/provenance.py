"""Provenance of a measurement: this revision of the project, and the machine that measured.

provenance.git()       {"commit": "1f0c…", "dirty": False}
provenance.client()    {"hostname": …, "os": …, "python": …, "cpu": …, "cpu_count": …, "memory_mib": …}
"""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CPUINFO = Path("/proc/cpuinfo")
MIB = 1024 * 1024


def git(root: Path = ROOT) -> dict[str, Any]:
    """The commit that is checked out in ``root``, and whether its files differ from it.

    Both are None where that cannot be known: no git, no repository, or one that ``root`` is merely inside of.
    ``commit`` alone is None before the first commit.
    """
    try:
        top = _git(root, "rev-parse", "--show-toplevel")
        if Path(top).resolve() != root.resolve():
            return {"commit": None, "dirty": None}
        dirty = bool(_git(root, "status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    try:
        commit: str | None = _git(root, "rev-parse", "--verify", "HEAD")
    except subprocess.SubprocessError:
        commit = None
    return {"commit": commit, "dirty": dirty}


def client() -> dict[str, Any]:
    """This machine: names and sizes, nothing that changes while it runs."""
    import psutil  # 35 ms, which each deployment would wait for

    return {
        "hostname": platform.node(),
        "os": _operating_system(),
        "python": platform.python_version(),
        "cpu": cpu_model(),
        "cpu_count": os.cpu_count(),
        "memory_mib": psutil.virtual_memory().total // MIB,
    }


def cpu_model(cpuinfo: Path = CPUINFO) -> str:
    """The processor's name; its architecture where the kernel tells no name (most of ARM)."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (value.strip() for name, _, value in (line.partition(":") for line in lines) if "model name" in name)
    return next((name for name in names if name), platform.processor() or platform.machine())


def _operating_system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name} ({platform.system()} {platform.release()}, {platform.machine()})"


def _git(root: Path, *arguments: str) -> str:
    # Without optional locks: looking must not get into the way of a git that works in the same folder.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    run = subprocess.run(
        ["git", "-C", str(root), *arguments],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return run.stdout.strip()
