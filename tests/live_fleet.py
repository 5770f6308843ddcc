"""Watched servers and hosts for tests, with the looks that they were given."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from rich.console import Console

from nexus_tasks.fleet.live import table
from nexus_tasks.fleet.live.watching import Watch, WatchedFleet
from nexus_tasks.servers.scrape import Look, Server

GPU: dict[str, Any] = {
    "index": 0, "utilization_percent": 97, "memory_used_mib": 22528, "power_w": 311.5, "power_limit_w": 350.0,
    "energy_j": None, "temperature_c": 64, "clock_mhz": 1410, "throttled": ["sw_power_cap"],
}  # fmt: skip
KNOWN: dict[str, Any] = {
    "index": 0, "name": "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "driver": "580.65.06",
    "memory_total_mib": 97887, "clock_max_mhz": 1980,
}  # fmt: skip


class Silent:
    """Nobody looks there."""

    def look(self) -> Look:
        return Look(0, problem="silent")


def watch(name: str, *looks: Look, host: str = "rig-1") -> Watch:
    made = Watch(host, name, lambda: contextlib.nullcontext((Silent(), False)))
    for look in looks:
        made.keep(look)
    return made


def servers(before: Server, now: Server) -> Watch:
    return watch("rig-1/main", Look(10.0, server=before), Look(12.0, server=now))


def drawn(fleet: WatchedFleet, width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(table.picture(fleet))
    return stream.getvalue()
