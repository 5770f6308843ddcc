"""Scheduler of a batch: who asks what next.

    scheduler = Scheduler(workers, window)
    for worker, work in scheduler.assignments(is_all_read=False):
        worker.take(work)

Endpoints of unequal speed share one window: each takes an item when it has room. At the end, a slow one leaves the last
items to those that will have answered them earlier.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from time import perf_counter

from nexus_tasks.batches.window import Window, Work
from nexus_tasks.batches.worker import Worker

SILENT_LATENCIES = 2.0
"""An endpoint at which nothing ended for so many times its latency is no longer as fast as that."""


class Scheduler:
    """Items that wait, for an endpoint or for the moment of their next attempt."""

    def __init__(self, workers: Sequence[Worker], window: Window) -> None:
        self._workers = workers
        self._window = window
        self._later: list[tuple[float, int, Work]] = []
        self._alone: deque[Work] = deque()
        self._numbers = itertools.count()

    @property
    def waiting(self) -> int:
        """The number of items that wait for anything."""
        own = sum(len(worker.own) for worker in self._workers)
        alone = sum(worker.alone is not None and not worker.under_way for worker in self._workers)
        return len(self._window) + len(self._later) + len(self._alone) + own + alone

    @property
    def room(self) -> int:
        """The number of items that may be read on."""
        return 0 if self._window.is_full else self._window.max_items - self.waiting

    def again(self, work: Work, after_s: float = 0.0) -> None:
        """Have an item asked again, after so many seconds."""
        heapq.heappush(self._later, (perf_counter() + after_s, next(self._numbers), work))

    def again_alone(self, work: Work) -> None:
        """Have an item asked again while nothing else is under way at its endpoint."""
        self._alone.append(work)

    def assignments(self, *, is_all_read: bool) -> Iterator[tuple[Worker, Work]]:
        """The items to be sent now; each must be taken before the next is asked for."""
        now = perf_counter()
        while self._later and self._later[0][0] <= now:
            self._window.put_back(heapq.heappop(self._later)[2])
        for worker in self._workers:
            for work in worker.recall():
                self._window.put_back(work)
        yield from self._alone_assignments()
        enough = sum(worker.slots for worker in self._workers if worker.is_well) if is_all_read else 0
        free = list(self._workers)
        while free:
            # One after another: the first of them would take all of a short batch.
            for worker in list(free):
                found = self._next(worker, enough, is_all_read=is_all_read)
                if found is None:
                    free.remove(worker)
                else:
                    yield worker, found

    def _alone_assignments(self) -> Iterator[tuple[Worker, Work]]:
        for worker in self._workers:
            if worker.alone is None and self._alone and worker.is_here:
                worker.alone = self._alone.popleft()
            if worker.alone is not None and not worker.under_way and worker.is_here:
                yield worker, worker.alone

    def _next(self, worker: Worker, enough: int, *, is_all_read: bool) -> Work | None:
        if not worker.has_room(plenty=len(self._window) > enough):
            return None
        if worker.own:
            return worker.own.popleft()
        if is_all_read and self._is_better_left(worker):
            return None
        return self._window.take(worker.name, newest=worker.pace.is_failing)

    def _is_better_left(self, worker: Worker) -> bool:
        """True where the other endpoints will have answered all that waits before this one has answered one more."""
        others = [other for other in self._workers if other is not worker and _keeps_up(other)]
        rate = sum(other.rate for other in others)
        if not rate or worker.pace.latency_s is None:
            return False
        before = len(self._window) + sum(len(other.under_way) for other in others)
        fastest_s = min(other.pace.latency_s for other in others if other.pace.latency_s)
        return worker.pace.latency_s > max(before / rate, fastest_s)


def _keeps_up(worker: Worker) -> bool:
    """True where an endpoint takes requests, and answers them as fast as it did."""
    latency_s = worker.pace.latency_s
    is_open = worker.is_well and worker.alone is None and not worker.pace.is_paused
    return is_open and latency_s is not None and worker.silent_s <= SILENT_LATENCIES * latency_s
