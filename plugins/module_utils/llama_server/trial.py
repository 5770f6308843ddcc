"""Canary (*trial*): a new server proven on a side port while the old one serves, where memory has room for both."""

from __future__ import annotations

import re

from ..hostlib.instances import Instance
from .desired_state import TRIAL, Declaration
from .errors import HostError
from .folder import Folder
from .gpus import MIB, free_memory
from .host import Host, Row
from .proof.prove import prove
from .sockets import free_port

# Checks that fail where there is too little memory; a router's have the model's name before them.
CROWDED = ("layers on the GPU", "weights in host memory", "caches in host memory", "context per slot")
OUT_OF_MEMORY = re.compile(r"out of memory|failed to allocate|unable to allocate|cannot allocate memory", re.IGNORECASE)


def try_beside(
    host: Host, folder: Folder, declaration: Declaration, own: bytes, owner: tuple[int, int] | None
) -> Row | None:
    """Prove the new server on a side port while the old one serves; the failed row, or None where nothing speaks
    against the switch: it was proven, or it ran out of memory beside the old one.
    """
    side = host.folder(folder.name + TRIAL)
    trial = declaration.on_side_port(free_port())
    with host.locked(side, "trial"):
        config = side.write(trial, trial.identity(own), owner)
        runtime = host.runtime(config)
        side.link("pending", config)
        folder.note("trial", generation=declaration.identity(own), port=config.port)
        try:
            runtime.prepare(config)
            runtime.start(config)
            row = prove(
                config, trial.proof, runtime, side, speed_counts=False,
                progress=lambda line: host.progress(f"{line}, beside the old one"),
            )  # fmt: skip
        except (HostError, OSError) as error:
            row = {"name": side.name, "checks": [], "error": str(error), "answered": None}
        finally:
            runtime.forget(side.name)
            side.remove()
    wrong = [check["check"] for check in row["checks"] if not check["ok"]]
    # Beside the old one there may be no room for what fits alone: out of memory, or moved to the processor by itself.
    offloads = any(placement["offloaded"] for placement in (row.get("placements") or {}).values())
    crowded = bool(wrong) and offloads and all(check.endswith(CROWDED) for check in wrong)
    starved = crowded or any(OUT_OF_MEMORY.search(line) for line in row.get("log_tail", []))
    del row["answered"]
    return row if row["error"] and not starved else None


def has_room_for_both(config: Instance, folder: Folder) -> bool:
    """True where memory has room for a second server, by what is free now.

    It needs what the present one was measured to hold, where that is the same model, and at any rate its weights and a
    third for caches.
    """
    need = sum(model.size_bytes or 0 for model in config.model_files()) / MIB * 1.33 + 1024
    last = folder.last_proof()
    if last.model == config.model:
        need = max(need, sum(sum(sizes.values()) for sizes in last.buffers_mib.values()))
    with open("/proc/meminfo", encoding="ascii") as stream:
        available = next(int(line.split()[1]) / 1024 for line in stream if line.startswith("MemAvailable"))
    if available < need:
        return False
    if not config.uses_gpu:
        return True
    free = free_memory(config.gpus)
    return free is not None and free >= need
