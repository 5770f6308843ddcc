"""Memory of NVIDIA GPUs, as nvidia-smi tells: what processes hold, and what is free."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..hostlib.gpus import SmiError, number, query

MIB = 1024 * 1024

# Files that say that this is a container, where the driver may not show our own processes.
CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv", "/run/systemd/container")


def held_memory(pids: set[int]) -> dict[str, float] | None:
    """MiB that processes hold by GPU, as the driver says; None where it can't tell: no nvidia-smi, or in a container
    that does not see its own processes.
    """
    if not pids:
        return None
    try:
        rows = query(["pid", "gpu_uuid", "used_memory"], table="compute-apps")
    except SmiError:
        return None
    seen = {int(row["pid"]) for row in rows if row["pid"].isdigit()}
    if not any(os.path.exists(f"/proc/{pid}") for pid in seen) and any(map(os.path.exists, CONTAINER_MARKS)):
        return None
    held: dict[str, float] = {}
    for row in rows:
        used = number(row["used_memory"])
        if row["pid"].isdigit() and int(row["pid"]) in pids and used is not None:
            held[row["gpu_uuid"]] = held.get(row["gpu_uuid"], 0.0) + used
    return held


def free_memory(chosen: Sequence[str] | None) -> float | None:
    """MiB that are free on the GPUs of these indexes or UUIDs, none meaning all; None where nobody can tell."""
    try:
        rows = query(["index", "uuid", "memory.free"])
    except SmiError:
        return None
    return sum(
        number(row["memory.free"]) or 0.0 for row in rows if not chosen or {row["index"], row["uuid"]} & set(chosen)
    )
