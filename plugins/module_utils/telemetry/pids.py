"""Processes of this host, found by their arguments, and ended. Python 3.9's standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable

from .errors import ExporterError

STOP_SECONDS = 20


def argv_of(process: int) -> list[str]:
    """Its arguments; none where it ended."""
    try:
        with open(f"/proc/{process}/cmdline", "rb") as stream:
            return stream.read().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def exporters(place: str, *words: str) -> list[int]:
    """The processes with this file among their arguments, or with the exporter of this folder, and these words."""
    return [
        int(name)
        for name in os.listdir("/proc")
        if name.isdigit()
        for argv in [argv_of(int(name))]
        if (place in argv or os.path.join(place, "exporter.py") in argv) and all(word in argv for word in words)
    ]


def end(processes: Iterable[int]) -> None:
    """End processes and wait for it."""
    pids = list(processes)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while left := [pid for pid in pids if argv_of(pid)]:
        if time.monotonic() > deadline:
            raise ExporterError(f"process {left[0]} does not end: end it, and deploy again")
        time.sleep(0.1)
