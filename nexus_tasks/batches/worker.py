"""Worker of a batch: one endpoint in operation, with as many requests under way at it as it has slots.

    worker = Worker(loop, reached, "qwen3-0.6b", options, wake)
    while worker.has_room(plenty=True):
        worker.take(work)
    worker.send()
    worker.ended                    # requests that ended, to be taken by the runner

An endpoint that hangs up, refuses connections or loads its model is *away* until it answers what it is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import msgspec

from nexus_tasks.batches.answers import Reader, Reading
from nexus_tasks.batches.endpoint import Found, Reached
from nexus_tasks.batches.failures import Problem
from nexus_tasks.batches.options import Options, Served
from nexus_tasks.batches.pace import Pace
from nexus_tasks.batches.watch import Watch
from nexus_tasks.batches.window import Work
from nexus_tasks.load.requests import Limits
from nexus_tasks.load.sender.connection import Failure, Transfer
from nexus_tasks.load.sender.pool import Pool
from nexus_tasks.load.sender.protocol import Ask
from nexus_tasks.load.sender_link import configuration
from nexus_tasks.servers.endpoint import API_PATH, Endpoint

TURNAROUND_S = 0.1
"""From the end of an answer until the next request is at the server, at most: networks, and a busy machine."""


@dataclass(frozen=True)
class Ended:
    """A request that ended; the moment is one of ``perf_counter``."""

    work: Work
    reading: Reading
    moment: float


class Worker:
    """An endpoint in operation.

    Args:
        model: the one that has to be there.
        wake: called when there is something for the runner to do.
    """

    is_packing = False  # for the pool's sweep

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        reached: Reached,
        model: str,
        options: Options,
        wake: Callable[[], None],
    ) -> None:
        self.name = reached.name
        self.key = reached.target.api_key
        self.served = Served(reached.name)
        self.ended: list[Ended] = []
        self.under_way: dict[int, Work] = {}
        self.own: deque[Work] = deque()  # no other endpoint has the context for these
        self.alone: Work | None = None  # to be asked while nothing else is under way here
        self.pace = Pace()
        self.last_server: Endpoint | None = None  # as it was there last
        self.names_itself: str | None = None  # the model's name in its answers
        self.builds: set[str] = set()  # those that answered in place of another, and were looked at
        self.watch = Watch(loop, reached, model, self._found, wake)
        self._options = options
        self._wake = wake
        self._pool = Pool(loop, self._on_end)
        self._number = 0
        self._taken: list[int] = []  # numbers of those that are still to be sent
        self._heard = 0.0  # when a request ended last, or began after a pause
        if reached.found is not None:
            self._found(reached.found)

    # room

    @property
    def is_here(self) -> bool:
        """True while it can be sent requests, after a pause perhaps."""
        return self.watch.server is not None

    @property
    def is_well(self) -> bool:
        """True while it is here and answers."""
        return self.is_here and not self.pace.is_failing

    @property
    def n_ctx(self) -> int:
        """The context of a slot, as far as it is known, where the endpoint can be used or may be again."""
        known = self.last_server is not None and not self.watch.is_lost
        return (self.last_server.n_ctx if self.last_server and known else None) or 0

    @property
    def problem(self) -> str:
        """The reason why it is not well."""
        return self.watch.problem or self.pace.last_problem or "it does not answer"

    @property
    def slots(self) -> int:
        """Requests that it works on at a time, as far as other clients leave it slots."""
        if not self.is_well:
            return 1
        if self.watch.total_slots:
            return max(self.watch.total_slots - self.watch.others, 1)
        return self._options.concurrency or self.pace.limit

    def has_room(self, *, plenty: bool) -> bool:
        """True where another request should be under way.

        Args:
            plenty: whether so many items wait that some may wait at the server, for the moment a slot is free.
        """
        if not self.is_here or self.pace.is_paused or self.alone is not None:
            return False
        return len(self.under_way) < self.slots + (self._waiting if plenty else 0)

    @property
    def _waiting(self) -> int:
        """Requests that wait at the server: as many as end before another could have come there."""
        if not (self.is_well and self.watch.total_slots) or self.watch.others:
            return 0
        return min(1 + int(self.rate * TURNAROUND_S), self.slots)

    @property
    def rate(self) -> float:
        """Requests per second, by the latency of the latest; 0 where it is unknown."""
        return self.slots / self.pace.latency_s if self.pace.latency_s else 0.0

    # requests

    @property
    def silent_s(self) -> float:
        """Seconds since a request ended, or began where none was under way; 0 while none is."""
        return perf_counter() - self._heard if self.under_way else 0.0

    def take(self, work: Work) -> None:
        """Take an item, whose request is sent by :meth:`send`."""
        if not self.under_way:
            self._heard = perf_counter()
        self._number += 1
        self.under_way[self._number] = work
        self._taken.append(self._number)

    def send(self) -> None:
        """Send the requests of all that was taken; the endpoint must be here."""
        taken, self._taken = self._taken, []
        server = self.watch.server
        for number in taken:
            work = self.under_way[number]
            if server is None:
                raise ValueError(f"{self.name} is away")
            request = work.request
            work.sent += 1
            work.reader = Reader(stream=request.stream)
            work.begun = perf_counter()
            path = request.path
            if path.startswith(f"{API_PATH}/"):
                path = server.api_path + path.removeprefix(API_PATH)
            self._pool.send(Transfer(Ask(number, path, with_model(request.body, server.model)), work.begun))

    def hand_on(self, meta: list[Any], times: list[float], parts: list[bytes]) -> None:
        """Read the beginning of an answer that goes on (for the pool's sweep)."""
        reader = self.under_way[meta[1]].reader
        if reader is not None:
            reader.feed(times, parts)

    def _on_end(
        self, transfer: Transfer, times: list[float], parts: list[bytes], failure: Failure | None, _waits_s: float
    ) -> None:
        work = self.under_way.pop(transfer.ask.id)
        reader, work.reader = work.reader, None
        if reader is None:
            return
        now = self._heard = perf_counter()
        reader.feed(times, parts)
        reading = reader.finish(self._named(failure, transfer, now))
        self.ended.append(Ended(work, reading, times[-1] if times else now))
        self._wake()

    def _named(self, failure: Failure | None, transfer: Transfer, now: float) -> Failure | None:
        """The failure, by the names of :data:`nexus_tasks.batches.entries.KINDS`."""
        limit_s = self._options.request_s
        if failure is None:
            return None
        if failure.kind == "timeout" and (limit_s is None or now - transfer.begun < limit_s):
            return Failure("stalled", failure.message)
        if failure.kind == "connect" and transfer.retried:
            # It was sent over a connection that was there, and lost; then there was nobody to connect to.
            return Failure("disconnected", failure.message)
        return failure

    # what became of them

    def succeeded(self, lasted_s: float) -> None:
        """Note an answer."""
        self.pace.succeeded(lasted_s)
        self.watch.proved()

    def went_away(self, problem: Problem) -> None:
        """Send nothing until it answers what it is."""
        if self.is_here:
            self.pace.went_away(problem)
            self.watch.went_away(problem.message)

    def recall(self) -> list[Work]:
        """Take back what waits for it alone, where that could not be sent for long."""
        back: list[Work] = []
        if self.watch.is_lost:
            back += self.own
            self.own.clear()
        if self.alone is not None and not self.is_here:
            back.append(self.alone)
            self.alone = None
        return back

    # looks

    def _found(self, found: Found) -> None:
        server, options = found.server, self._options
        limits = Limits(connect_s=options.connect_s, token_s=options.token_s, request_s=options.request_s)
        self._pool.configure(configuration(found.way, self.key, {}, None, limits))
        self.served.model, self.served.build = server.model, server.build
        self.last_server, self.names_itself = server, None

    def sweep(self) -> None:
        """Look after what is under way, and after the endpoint."""
        if self.under_way:
            self._pool.sweep(self)
        self.watch.sweep(len(self.under_way))

    def close(self) -> None:
        """Give up what is under way."""
        self._pool.close_idle()
        self._pool.abort()
        self.watch.close()


def with_model(body: bytes, model: str) -> bytes:
    """A request's body with the model's name, which is its server's."""
    name = b'{"model":' + msgspec.json.encode(model)
    rest = body[1:].lstrip()
    return name + (b"}" if rest == b"}" else b"," + rest)
