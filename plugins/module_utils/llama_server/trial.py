"""Canary (*trial*): a new server proven on a side port while the old one serves, where memory has room for both."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..hostlib.buffers import is_host
from ..hostlib.host_memory import available_mib
from ..hostlib.instances import Instance
from .desired_state import TRIAL, Declaration
from .errors import HostError
from .folder import Folder
from .gpus import free_memory
from .host import Host, Row
from .proof.prove import prove
from .sockets import free_port

# Checks that fail where there is too little memory; a router's have the model's name before them.
CROWDED = ("layers on the GPU", "weights in host memory", "caches in host memory", "context per slot")
BESIDE_MIB = 600.0  # of a GPU or of the host, that a process takes beside its buffers
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


def has_room_for_both(config: Instance, folder: Folder, needs: Mapping[str, Any] | None) -> bool:
    """True where memory has room for a second server, by what is free now.

    Args:
        needs: by its plan ``gpus``, MiB by UUID or index, and ``host``. None where it could not be planned: then what
            the present one was measured to hold counts, where that is the same model, and else nobody knows.
    """
    if needs is None:
        measured = folder.last_proof()
        if measured.model is None or measured.model != config.model:
            return False
        return _has(_total(measured.buffers_mib, host=True)) and (
            not config.uses_gpu or (free_memory(config.gpus) or 0.0) >= _total(measured.buffers_mib, host=False)
        )
    return _has(needs["host"]) and all((free_memory([gpu]) or 0.0) >= mib for gpu, mib in needs["gpus"].items())


def _has(mib: float) -> bool:
    """True where so much of this host's memory can be had without swapping."""
    return available_mib() >= mib


def _total(buffers_mib: Mapping[str, Mapping[str, float]], *, host: bool) -> float:
    """MiB of buffers in the host's memory, or on GPUs, with what a process takes beside them."""
    of_those = [sum(sizes.values()) for device, sizes in buffers_mib.items() if is_host(device) == host]
    return sum(of_those) + BESIDE_MIB * max(len(of_those), 1)
