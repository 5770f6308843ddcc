"""Memory of NVIDIA GPUs, as nvidia-smi tells: what processes hold, and what is free."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from ..hostlib.gpus import SmiError, number, query

MIB = 1024 * 1024

# Files that say that this is a container or WSL, where the driver may show the processes of another system.
FOREIGN_MARKS = ("/.dockerenv", "/run/.containerenv", "/run/systemd/container", "/dev/dxg")


class Held(NamedTuple):
    """Memory that processes hold by GPU, in MiB; None where the driver does not tell, and ``why``."""

    mib: dict[str, float] | None
    why: str = ""


def held_memory(pids: set[int], least_mib: float = 0.0) -> Held:
    """The memory that processes hold, as the driver says.

    Args:
        least_mib: what they should. A list without any process is no answer where so much memory is taken.
    """
    try:
        rows = query(["pid", "gpu_uuid", "used_memory"], table="compute-apps")
    except SmiError as error:
        return Held(None, f"nvidia-smi does not tell: {error}")
    ours = [row for row in rows if row["pid"].isdigit() and int(row["pid"]) in pids]
    used = [(row["gpu_uuid"], number(row["used_memory"])) for row in ours]
    if ours and all(mib is None for _, mib in used):
        return Held(None, f"not reported by this driver ({ours[0]['used_memory']}), as under WSL")
    if not ours:
        there = any(os.path.exists(f"/proc/{row['pid']}") for row in rows if row["pid"].isdigit())
        if not there and any(map(os.path.exists, FOREIGN_MARKS)):
            return Held(None, "nvidia-smi lists no processes of this system, as in a container or under WSL")
        taken = None if rows else used_memory()
        if not rows and (taken is None or taken >= least_mib > 0):
            return Held(None, "not reported by this driver, which lists no processes, as in a guest with a vGPU")
    held: dict[str, float] = {}
    for uuid, mib in used:
        held[uuid] = held.get(uuid, 0.0) + (mib or 0.0)
    return Held(held)


def used_memory() -> float | None:
    """MiB that are taken on all GPUs; None where one does not tell."""
    return _sum("memory.used", None)


def free_memory(chosen: Sequence[str] | None) -> float | None:
    """MiB that are free on the GPUs of these indexes or UUIDs, none meaning all; None where one does not tell."""
    return _sum("memory.free", chosen)


def _sum(field: str, chosen: Sequence[str] | None) -> float | None:
    try:
        rows = query(["index", "uuid", field])
    except SmiError:
        return None
    cells = [number(row[field]) for row in rows if not chosen or {row["index"], row["uuid"]} & set(chosen)]
    known = [cell for cell in cells if cell is not None]
    return sum(known) if len(known) == len(cells) else None
