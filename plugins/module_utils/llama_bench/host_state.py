"""State of the host that measures: its GPUs, as a benchmark's header has them. Python 3.9's standard library only."""

from __future__ import annotations

from typing import Any

from ..hostlib import gpus
from ..hostlib.files import read_text

GPU_FIELDS = ("index", "name", "driver_version", "memory.total", "power.limit", "clocks.max.sm")
GOVERNOR = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"


def gpus_of_host() -> list[dict[str, str]]:
    """The GPUs by nvidia-smi, a row each; none where there is no driver."""
    try:
        return gpus.query(GPU_FIELDS)
    except gpus.SmiError:
        return []


def host_of(gpu_rows: list[dict[str, str]]) -> dict[str, Any]:
    """``gpus`` and ``host_state`` as a benchmark's header has them."""

    governor = read_text(GOVERNOR)
    rows = []
    for gpu in gpu_rows:
        memory = gpus.number(gpu["memory.total"])
        total = None if memory is None else int(memory)
        rows.append({"index": int(gpu["index"]), "name": gpu["name"], "driver": gpu["driver_version"],
                     "memory_total_mib": total})  # fmt: skip
    state = {
        "driver": gpu_rows[0]["driver_version"] if gpu_rows else None,
        "power_limit_w": [gpus.number(gpu["power.limit"]) for gpu in gpu_rows] or None,
        "clocks_max_mhz": [gpus.number(gpu["clocks.max.sm"]) for gpu in gpu_rows] or None,
        "governor": governor.strip() if governor is not None else None,
    }
    return {"gpus": rows, "host_state": state}
