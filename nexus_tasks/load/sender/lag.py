"""The lag of a sender process's event loop, by which stamps may be late."""

from __future__ import annotations

import asyncio
from time import perf_counter

from nexus_tasks.load.sender.alarm import Alarm

BUCKET_S = 1e-4
_BUCKETS = 2000
_PROBE_S = 0.02


class Histogram:
    """Counts of delays in buckets of 0.1 ms, up to 0.2 s."""

    def __init__(self) -> None:
        self.counts = [0] * (_BUCKETS + 1)
        self.largest = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[min(max(int(seconds / BUCKET_S), 0), _BUCKETS)] += 1
        self.largest = max(self.largest, seconds)


class LagProbe:
    """Measures every 20 ms by how much the loop calls back late."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.delays = Histogram()
        self._alarm = Alarm(loop, self._probed)
        self._due = 0.0

    def start(self) -> None:
        """Begin to look."""
        self._due = perf_counter() + _PROBE_S
        self._alarm.at(self._due)

    def _probed(self) -> None:
        now = perf_counter()
        self.delays.add(now - self._due)
        self._due = now + _PROBE_S
        self._alarm.at(self._due)
