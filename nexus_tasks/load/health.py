"""The generator's checks of itself: dispatch delay, lag of its event loops, CPU, requests in flight.

A stage in which the generator may have been part of what it measured is not valid, and its reasons say why.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nexus_tasks.core.text import apart
from nexus_tasks.load.requests import Stage
from nexus_tasks.load.sender.lag import BUCKET_S
from nexus_tasks.records.benchmark_rows import Percentiles, Watch

Stats = Mapping[str, Any]
"""The last report of a sender process, :data:`nexus_tasks.load.sender.protocol.STATS`."""
MIN_IN_FLIGHT = 0.97
"""Of the requests that should be in flight in a closed loop, on average."""
MAX_CPU = 0.7
"""Of a core, by the busiest sender process: beyond it is near its saturation."""
MAX_LAG_P99_MS = 3.0
"""Of the event loop of a sender process, which is how late stamps may be."""
MIN_LATE_LOOKS = 3
"""Fewer looks that found a loop later than MAX_LAG_P99_MS say nothing."""
MAX_DISPATCH_DELAY_P99_MS = 10.0
"""From when a request of an open loop was due to when a sender process began it."""


class Observer:
    """Notes the generator's own timing while a stage runs. All moments are seconds on the generator's clock."""

    def __init__(self, stage: Stage) -> None:
        self._users = stage.concurrency if stage.is_closed_loop else None
        self._first_wave = stage.concurrency or 1
        self._begun: array[float] = array("d")
        self._ended: array[float] = array("d")
        self._late_ms: array[float] = array("d")
        self._dispatch_delays_ms: array[float] = array("d")  # before there was a connection: this machine's part
        self._window: tuple[float, float] | None = None
        self._paused = False

    def request(self, begun: float, ended: float) -> None:
        """Note a request of any phase."""
        self._begun.append(begun)
        self._ended.append(ended)

    def counted(self, intended: float, ended: float, late_ms: float, dispatch_delay_s: float | None) -> None:
        """Note a request that counts; the dispatch delay is that of one that was due at a moment."""
        self._late_ms.append(late_ms)
        if dispatch_delay_s is not None:
            self._dispatch_delays_ms.append(dispatch_delay_s * 1000)
        first, last = self._window or (intended, ended)
        self._window = min(first, intended), max(last, ended)

    def paused(self) -> None:
        """Note that the server had users wait (Retry-After)."""
        self._paused = True

    def watch(
        self, stats: Sequence[Stats], *, begin: float, origin: float, processes: int, stopped: str | None
    ) -> Watch:
        """The verdict.

        Args:
            stats: the last report of each sender process, :data:`nexus_tasks.load.sender.protocol.STATS`.
            begin: the stage's.
            origin: the run's begin.
        """
        first, last = self._window or (begin, begin)
        in_flight = mean_in_flight(self._begun, self._ended, users=self._first_wave, since=first)
        reasons = self._reasons(stats, in_flight)
        late_ms = np.asarray(self._late_ms)
        return Watch(
            begun_s=round(first - origin, 6),
            ended_s=round(last - origin, 6),
            stopped=stopped,
            in_flight=None if in_flight is None else round(in_flight, 3),
            in_flight_asked=self._users,
            cpu_per_process=round(_busiest(stats), 4),
            cpu_s=round(sum(entry["cpu_s"] for entry in stats), 4),
            processes=processes,
            lag_ms=_lag_of(stats),
            late_ms=Percentiles(
                p50=round(float(np.percentile(late_ms, 50)), 3) if len(late_ms) else None,
                p99=round(float(np.percentile(late_ms, 99)), 3) if len(late_ms) else None,
                max=round(float(late_ms.max()), 3) if len(late_ms) else None,
            ),
            valid=not reasons,
            reasons=reasons,
        )

    def _reasons(self, stats: Sequence[Stats], in_flight: float | None) -> list[str]:
        reasons = []
        users, requests = self._users, len(self._begun)
        if users and in_flight is not None and in_flight < MIN_IN_FLIGHT * users:
            why = " because the server asked for pauses (Retry-After)" if self._paused else ""
            reasons.append(f"{apart(in_flight, users)} requests were in flight of {users} asked for{why}")
        if users and requests < users:
            reasons.append(f"there were {requests} requests for {users} users")
        elif users and users > 1 and requests == users:
            reasons.append(f"each of {users} users sent one request: nothing but the first wave was measured")
        if (cpu := _busiest(stats)) >= MAX_CPU:
            reasons.append(f"the load generator used {cpu:.0%} of a core: give it more processes")
        if too_late([entry["lag"] for entry in stats]):
            late_by = apart(_lag_of(stats).p99 or 0.0, MAX_LAG_P99_MS)
            reasons.append(f"the load generator's loop was late by {late_by} ms (p99): this machine is too busy")
        delays_ms = self._dispatch_delays_ms
        if delays_ms and (delay_p99_ms := float(np.percentile(delays_ms, 99))) > MAX_DISPATCH_DELAY_P99_MS:
            late_by = apart(delay_p99_ms, MAX_DISPATCH_DELAY_P99_MS, 0)
            reasons.append(f"requests were begun {late_by} ms late (p99): the load generator did not keep up")
        if any(entry["behind"] for entry in stats):
            reasons.append("answers came faster than they could be read: users waited for this machine")
        return reasons


def mean_in_flight(begun: Sequence[float], ended: Sequence[float], *, users: int, since: float) -> float | None:
    """Requests under way, on average from when all users were there until the last request began."""
    begins, ends = np.sort(np.asarray(begun)), np.asarray(ended)
    if len(begins) <= users:
        return None
    first, last = max(since, begins[users - 1]), begins[-1]
    if last <= first:
        return None
    within = np.clip(ends, first, last).sum() - np.clip(begins, first, last).sum()
    return float(within / (last - first))


def too_late(histograms: Sequence[Sequence[int]]) -> bool:
    """True where the delays that the processes counted harm what is measured.

    The p99 alone would be, of the few dozen looks of a short stage, the worst one.
    """
    if not histograms:
        return False
    late = np.sum(histograms, axis=0)[round(MAX_LAG_P99_MS / 1000 / BUCKET_S) :].sum()
    return bool((lag(histograms, 0.0).p99 or 0) > MAX_LAG_P99_MS and late >= MIN_LATE_LOOKS)


def lag(histograms: Sequence[Sequence[int]], largest_s: float) -> Percentiles:
    """Percentiles (ms) of the delays that the processes counted."""
    counts: NDArray[np.int64] = np.sum(histograms, axis=0) if histograms else np.zeros(1, dtype=np.int64)
    total = counts.sum()
    if not total:
        return Percentiles(p50=None, p99=None, max=None)
    reached = np.cumsum(counts) / total
    bounds_ms = (np.arange(len(counts)) + 1) * BUCKET_S * 1000
    return Percentiles(
        p50=round(float(bounds_ms[np.searchsorted(reached, 0.5)]), 3),
        p99=round(float(bounds_ms[np.searchsorted(reached, 0.99)]), 3),
        max=round(largest_s * 1000, 3),
    )


def _lag_of(stats: Sequence[Stats]) -> Percentiles:
    return lag([entry["lag"] for entry in stats], max((entry["lag_max"] for entry in stats), default=0.0))


def _busiest(stats: Sequence[Stats]) -> float:
    return float(max((entry["cpu"] for entry in stats), default=0.0))
