"""Worker of a batch: one endpoint in operation, with as many requests under way at it as it has slots.

    worker = Worker(loop, reached, "qwen3-0.6b", options, wake)
    while worker.has_room(plenty=True):
        worker.take(work)
    worker.send()
    worker.ended                    # requests that ended, to be taken by the runner

An endpoint that hangs up, refuses connections or loads its model is *away* until it answers what it is. One that fails
request after request is asked for one at a time, with growing pauses, until it answers again.
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
from nexus_tasks.batches.endpoint import Reached
from nexus_tasks.batches.options import Options, Served
from nexus_tasks.batches.watch import Watch
from nexus_tasks.batches.window import Work
from nexus_tasks.load.requests import Limits
from nexus_tasks.load.sender.connection import Failure, Transfer
from nexus_tasks.load.sender.pool import Pool
from nexus_tasks.load.sender.protocol import Ask
from nexus_tasks.load.sender_link import configuration
from nexus_tasks.servers.endpoint import API_PATH, Endpoint
from nexus_tasks.servers.route import Route

FIRST_LIMIT, MAX_LIMIT = 4.0, 128.0
"""Requests under way at a server that does not tell its slots, at first and at most."""
PAUSE_S, MAX_DOUBLINGS = 0.5, 6
FAILURES_IN_A_ROW = 8
"""An endpoint that failed so often without an answer is taken for what fails, not its rows."""
_WEIGHT = 0.2  # of the latest answer in the mean latency


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
        self.latency_s: float | None = None
        self.failures = 0  # in a row
        self.last_problem: str | None = None
        self.watch = Watch(loop, reached, model, self._found, wake)
        self._options = options
        self._wake = wake
        self._pool = Pool(loop, self._on_end)
        self._limit = FIRST_LIMIT
        self._paused_until = 0.0
        self._number = 0
        self._taken: list[int] = []  # numbers of those that are still to be sent
        if reached.server is not None and reached.way is not None:
            self._found(reached.server, reached.way)

    # room

    @property
    def is_here(self) -> bool:
        """True while it can be sent requests, after a pause perhaps."""
        return self.watch.server is not None

    @property
    def is_well(self) -> bool:
        """True while it is here and answers."""
        return self.is_here and self.failures < FAILURES_IN_A_ROW

    @property
    def problem(self) -> str:
        """The reason why it is not well."""
        return self.watch.problem or self.last_problem or "it does not answer"

    @property
    def slots(self) -> int:
        """Requests that it works on at a time, as far as other clients leave it slots."""
        if not self.is_well:
            return 1
        if self.watch.total_slots:
            return max(self.watch.total_slots - self.watch.others, 1)
        return self._options.concurrency or int(self._limit)

    def has_room(self, *, plenty: bool) -> bool:
        """True where another request should be under way.

        Args:
            plenty: whether so many items wait that one may wait at the server, for the moment a slot is free.
        """
        if not self.is_here or self._paused_until > perf_counter() or self.alone is not None:
            return False
        waits = plenty and self.is_well and bool(self.watch.total_slots) and not self.watch.others
        return len(self.under_way) < self.slots + waits

    @property
    def rate(self) -> float:
        """Requests per second, by the latency of the latest; 0 where it is unknown."""
        return self.slots / self.latency_s if self.latency_s else 0.0

    # requests

    def take(self, work: Work) -> None:
        """Take an item, whose request is sent by :meth:`send`."""
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
        now = perf_counter()
        reader.feed(times, parts)
        reading = reader.finish(self._named(failure, now - work.begun))
        self.ended.append(Ended(work, reading, times[-1] if times else now))
        self._wake()

    def _named(self, failure: Failure | None, lasted_s: float) -> Failure | None:
        """The failure; a time limit other than that of the whole request is a stall."""
        limit_s = self._options.request_s
        if failure is not None and failure.kind == "timeout" and (limit_s is None or lasted_s < limit_s):
            return Failure("stalled", failure.message)
        return failure

    # what became of them

    def succeeded(self, lasted_s: float) -> None:
        """Note an answer."""
        self.failures = 0
        before_s = lasted_s if self.latency_s is None else self.latency_s
        self.latency_s = before_s + _WEIGHT * (lasted_s - before_s)
        self._limit = min(self._limit + 1 / self._limit, MAX_LIMIT)

    def failed(self) -> bool:
        """Note a failure; True where its row may be the reason, False where the endpoint is."""
        self.failures += 1
        if self.failures < FAILURES_IN_A_ROW:
            return True
        self._pause(PAUSE_S * 2.0 ** min(self.failures - FAILURES_IN_A_ROW, MAX_DOUBLINGS))
        return False

    def refused(self, retry_after_s: float | None) -> None:
        """Note that it has too much to do, and for how long it asks not to be asked."""
        self.failures += 1
        self._limit = max(self._limit / 2, 1.0)
        self._pause(PAUSE_S * 2.0 ** min(self.failures, MAX_DOUBLINGS) if retry_after_s is None else retry_after_s)

    def _pause(self, seconds: float) -> None:
        self._paused_until = max(self._paused_until, perf_counter() + seconds)

    def recall(self) -> list[Work]:
        """Take back what waits for it alone, where it can't be sent any."""
        if self.is_here:
            return []
        back = [*self.own, *([self.alone] if self.alone is not None else [])]
        self.own.clear()
        self.alone = None
        return back

    # looks

    def _found(self, server: Endpoint, way: Route) -> None:
        options = self._options
        limits = Limits(connect_s=options.connect_s, token_s=options.token_s, request_s=options.request_s)
        self._pool.configure(configuration(way, self.key, {}, None, limits))
        self.served.model, self.served.build = server.model, server.build

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
