"""Memory of NVIDIA GPUs, as nvidia-smi tells: what processes hold, and what is free."""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Sequence

from .commands import attempt

MIB = 1024 * 1024

# Files that say that this is a container, where the driver may not show our own processes.
CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv", "/run/systemd/container")


def held_memory(pids: set[int]) -> dict[str, float] | None:
    """MiB that processes hold by GPU, as the driver says; None where it can't tell: no nvidia-smi, or in a container
    that does not see its own processes.
    """
    program = shutil.which("nvidia-smi")
    if not program or not pids:
        return None
    code, output = attempt(
        program, "--query-compute-apps=pid,gpu_uuid,used_memory", "--format=csv,noheader,nounits", timeout=60
    )
    rows = [[cell.strip() for cell in line.split(",")] for line in output if line.count(",") == 2]
    seen = {int(row[0]) for row in rows if row[0].isdigit()}
    hidden = not any(os.path.exists(f"/proc/{number}") for number in seen) and any(map(os.path.exists, CONTAINER_MARKS))
    if code != 0 or hidden:
        return None
    held: dict[str, float] = {}
    for number, gpu, used in rows:
        if number.isdigit() and int(number) in pids and re.match(r"[\d.]+$", used):
            held[gpu] = held.get(gpu, 0.0) + float(used)
    return held


def free_memory(chosen: Sequence[str] | None) -> float | None:
    """MiB that are free on the GPUs of these indexes or UUIDs, none meaning all; None where nobody can tell."""
    program = shutil.which("nvidia-smi")
    if not program:
        return None
    code, output = attempt(program, "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits", timeout=60)
    if code != 0:
        return None
    free = 0.0
    for index, uuid, mib in [row for row in csv.reader(output, skipinitialspace=True) if len(row) == 3]:
        if not chosen or {index, uuid} & set(chosen):
            free += float(mib) if re.match(r"[\d.]+$", mib) else 0.0
    return free
