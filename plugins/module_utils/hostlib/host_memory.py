"""Memory of a host in MiB: the kernel's, or what a container may have of it. Python 3.9's standard library only.

A container sees all memory of its machine in /proc/meminfo; its limit is that of the topmost cgroup that it sees. The
topmost of a machine has none.
"""

from __future__ import annotations

import os
import re

from .files import read_text

MIB = 1024 * 1024
# Of cgroup v2 and v1, below the root: limit, use, and lines of the statistics whose pages can be dropped.
CGROUPS = (
    ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current", "sys/fs/cgroup/memory.stat",
     ("active_file", "inactive_file")),
    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes",
     "sys/fs/cgroup/memory/memory.stat", ("total_active_file", "total_inactive_file")),
)  # fmt: skip


def total_mib(text: str) -> float:
    """MiB that there are, by the text of /proc/meminfo and lines of limits behind it: bytes, or ``max``.

    Raises:
        ValueError: the text has no MemTotal.
    """
    return min([_meminfo(text, "MemTotal"), *(int(limit) / MIB for limit in re.findall(r"^\d+$", text, re.MULTILINE))])


def available_mib(root: str = "/") -> float:
    """MiB that processes can have without swapping.

    Raises:
        ValueError: /proc/meminfo has no MemAvailable.
    """
    found = [_meminfo(read_text(os.path.join(root, "proc/meminfo")) or "", "MemAvailable")]
    for limit, use, statistics, droppable in CGROUPS:
        most, used = (_bytes_as_mib(read_text(os.path.join(root, path)) or "") for path in (limit, use))
        if most is not None and used is not None:
            lines = (read_text(os.path.join(root, statistics)) or "").splitlines()
            sizes = [int(size) for name, _, size in (line.partition(" ") for line in lines) if name in droppable]
            found.append(most - used + sum(sizes) / MIB)
    return min(found)


def _meminfo(text: str, name: str) -> float:
    found = re.search(rf"^{name}: +(\d+) kB", text, re.MULTILINE)
    if not found:
        raise ValueError(f"/proc/meminfo has no {name}")
    return int(found[1]) / 1024


def _bytes_as_mib(text: str) -> float | None:
    return int(text) / MIB if re.fullmatch(r"\d+\n?", text) else None
