"""Load generator: dispatches requests, and checks its own timing.

    stage = Stage("closed", concurrency=16, requests=200, warmup=16)
    way = route.to("http://gpu1:8600").resolved()
    watch = run(way, key, items, stage, Limits(), index=0, origin=time.perf_counter(), on_rows=keep)
    watch.valid, watch.reasons

The requests are sent by processes of :mod:`nexus_tasks.load.sender`, which only stamp and keep what arrives. This
process feeds them (:mod:`nexus_tasks.load.feed`), and reads what they hand back: :mod:`nexus_tasks.load.response`
makes tokens and timings of the bytes, and :mod:`nexus_tasks.load.rows` the rows of a record. So no decoding ever
delays a stamp.

Load is a *closed loop* (a number of users, each of whom waits for an answer before asking again) or an *open loop*
(arrivals at a rate: constant, Poisson, bursts) whether or not answers came. In an open loop, latencies count from the
moment a request was due, not from when it could be sent: a server or a client that falls behind can't hide it
(coordinated omission).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from nexus_tasks.hostlib import masking
from nexus_tasks.load.feed import Feed, Handed
from nexus_tasks.load.health import Observer
from nexus_tasks.load.interrupts import Interrupts
from nexus_tasks.load.reading import Reading, Segment, StreamError
from nexus_tasks.load.requests import Item, Limits, Stage, check
from nexus_tasks.load.rows import Place, request_row
from nexus_tasks.load.sender import protocol
from nexus_tasks.load.sender_link import SenderLink, SenderLinks
from nexus_tasks.records.benchmark_rows import RequestRow, Watch
from nexus_tasks.servers import answers
from nexus_tasks.servers.route import Route

_BEFORE_ERRORS_COUNT = 10
_ENOUGH_EVERY_S = 0.5
_END_S = 10.0
_POLL_S = 0.25


def run(
    way: Route,
    api_key: str | None,
    items: Iterable[Item],
    stage: Stage,
    limits: Limits,
    *,
    index: int,
    origin: float,
    on_rows: Callable[[list[RequestRow]], None],
    number: int = 0,
    processes: int = 1,
    headers: Mapping[str, str] | None = None,
    enough: Callable[[], bool] | None = None,
) -> Watch:
    """Put one level of load on a server.

    Args:
        way: to the server.
        items: what is asked; taken as it is needed, somewhat ahead.
        index: the number of the first request; the others count on.
        origin: the run's begin on ``time.perf_counter``.
        on_rows: gets the rows of requests as they end, in batches, in this process.
        number: of the stage.
        processes: how many share the load.
        headers: sent with each request.
        enough: asked now and then; True ends the stage.

    Raises:
        UsageError: the stage contradicts itself.
        EndpointDown: the host's name is unknown.
        KeyboardInterrupt: after the rows of all requests that had ended were delivered.
    """
    check(stage)
    if stage.concurrency is not None:
        processes = min(processes, stage.concurrency)
    users = stage.concurrency if stage.is_closed_loop else None
    with Interrupts() as interrupts, SenderLinks(max(processes, 1), users) as senders:
        senders.configure(way, api_key, headers or {}, limits)
        feed = Feed(senders.links, iter(items), stage, limits, interrupts)
        stopping = _Stopping(limits.max_error_rate, enough)
        run_ = _Run(
            senders, feed, stage, stopping, on_rows, interrupts, index=index, number=number, origin=origin,
            hidden=api_key, keep_answers=limits.keep_answers,
        )  # fmt: skip
        return run_.run()


class _Stopping:
    """Decides whether a stage ends before its requests or its duration do: too much failed, or there is enough."""

    def __init__(self, max_error_rate: float | None, enough: Callable[[], bool] | None) -> None:
        self.reason: str | None = None
        self._max_error_rate = max_error_rate
        self._enough = enough
        self._counted = 0
        self._failed = 0
        self._asked = time.perf_counter()
        self._cost_s = 0.0

    def count(self, *, ok: bool) -> None:
        """Count a request."""
        self._counted += 1
        self._failed += not ok

    def consider(self) -> str | None:
        """A reason that is new: ``errors`` or ``enough``."""
        if self.reason:
            return None
        allowed = self._max_error_rate
        if allowed is not None and self._counted >= _BEFORE_ERRORS_COUNT and self._failed > allowed * self._counted:
            self.reason = "errors"
            return self.reason
        now = time.perf_counter()
        if self._enough and now - self._asked > max(_ENOUGH_EVERY_S, 10 * self._cost_s):
            if self._enough():
                self.reason = "enough"
            self._asked = time.perf_counter()
            self._cost_s = self._asked - now
        return self.reason


class _Run:
    """A stage while it runs."""

    def __init__(
        self,
        senders: SenderLinks,
        feed: Feed,
        stage: Stage,
        stopping: _Stopping,
        on_rows: Callable[[list[RequestRow]], None],
        interrupts: Interrupts,
        *,
        index: int,
        number: int,
        origin: float,
        hidden: str | None,
        keep_answers: bool,
    ) -> None:
        self._senders = senders
        self._feed = feed
        self._stage = stage
        self._stopping = stopping
        self._on_rows = on_rows
        self._interrupts = interrupts
        self._index = index
        self._number = number
        self._origin = origin
        self._hidden = hidden
        self._keep_answers = keep_answers
        self._observer = Observer(stage)
        self._encoder = msgspec.msgpack.Encoder()
        self._begin = 0.0
        self._rows: list[
            tuple[float, RequestRow]
        ] = []  # not delivered yet; with the moments at which the requests ended

    def run(self) -> Watch:
        """Run it to its end."""
        self._senders.await_ready(self._interrupts)
        self._feed.fill()
        self._go()
        self._feed.fill()  # what is due in an open loop can't wait for the first news
        while not self._feed.is_done and not self._interrupts.came:
            self._poll()
            self._feed.fill()
            self._deliver()
            self._consider()
            if self._stopping.reason == "errors":
                break
        self._end()
        self._deliver()
        if self._interrupts.came:
            raise KeyboardInterrupt
        return self._observer.watch(
            [link.stats for link in self._senders.links if link.stats],
            begin=self._begin,
            origin=self._origin,
            processes=len(self._senders.links),
            stopped=self._stopping.reason or ("exhausted" if self._feed.exhausted else None),
        )

    def _go(self) -> None:
        self._begin = self._feed.begin = time.perf_counter() + 0.01
        # In an open loop, what is handed out ends with the duration; users have to be stopped.
        duration_s = self._stage.duration_s if self._stage.is_closed_loop else None
        self._senders.tell(protocol.GO, self._encoder.encode((self._begin, self._stage.ramp_s, duration_s)))

    def _poll(self) -> None:
        for link, reports in self._senders.received(self._feed.wait_s(_POLL_S)):
            for meta, segment in reports:
                self._read(link, meta, segment)
                os.sched_yield()  # where a core is shared with a process that sends, that one has something to stamp

    def _read(self, link: SenderLink, meta: list[Any], segment: Segment) -> None:
        handed = self._feed.handed
        match meta:
            case [protocol.PART, number]:
                handed[number].answer.feed(segment)
            case [protocol.END, number, begun, sent, ended, failure]:
                link.outstanding -= 1
                handed[number].answer.feed(segment)
                broken = StreamError(*failure) if failure else None
                self._finished(link, handed.pop(number), begun, sent, ended, broken)
            case [protocol.DROPPED, numbers]:
                link.outstanding -= len(numbers)
                for number in numbers:
                    del handed[number]
            case [protocol.STOPPED]:
                self._feed.stop()
            case [protocol.STATS, stats]:
                self._senders.finished(link, stats)

    def _finished(
        self, link: SenderLink, done: Handed, begun: float, sent: float, ended: float, broken: StreamError | None
    ) -> None:
        """Make the row of a request that ended, and go on with its conversation."""
        reading = done.answer.finish(broken)
        phase = self._feed.settle_phase(done, begun)
        intended = done.intended if done.intended is not None else sent if self._stage.is_closed_loop else begun
        row = self._row(done, reading, link, phase, intended=intended, sent=sent, ended=ended)
        self._rows.append((ended, row))
        self._observer.request(begun, ended)
        if phase == "run":
            self._stopping.count(ok=row.ok)
            delay_s = None if done.intended is None else begun - done.intended
            self._observer.counted(intended, ended, row.late_ms or 0.0, delay_s)
        retry_after_s = row.error.retry_after_s if row.error else None
        if retry_after_s is not None:
            self._observer.paused()
        if done.has_next_turn and not (row.ok and self._feed.next_turn(link, done, reading.text or "")):
            self._feed.give_up(done)
            if self._stage.is_closed_loop:
                kind = broken.kind if broken else None
                waits_s = protocol.pause_s(kind, retry_after_s, answered=bool(reading.tokens))
                link.tell(protocol.RELEASE, self._encoder.encode(waits_s))

    def _row(
        self,
        done: Handed,
        reading: Reading,
        link: SenderLink,
        phase: str,
        *,
        intended: float,
        sent: float,
        ended: float,
    ) -> RequestRow:
        place = Place(
            index=self._index + done.number,
            stage=self._number,
            phase=phase,
            key=done.item.key,
            conversation=done.conversation if len(done.item.requests) > 1 else None,
            turn=done.turn,
            worker=link.number,
        )
        row = request_row(place, done.request, reading, intended=intended, sent=sent, ended=ended, origin=self._origin)
        if self._keep_answers:
            row.prompt = None if done.request.text is None else masking.text(done.request.text, self._hidden)
            row.answer = masking.text(reading.text or "", self._hidden)
        if row.error:
            row.error.message = answers.shown(row.error.message, self._hidden)
        return row

    def _deliver(self) -> None:
        if self._rows:
            rows = [row for _, row in sorted(self._rows, key=lambda entry: entry[0])]
            self._rows = []
            self._on_rows(rows)

    def _consider(self) -> None:
        if not self._feed.exhausted and self._stopping.consider() == "enough":
            self._senders.tell(protocol.STOP)
            self._feed.stop()

    def _end(self) -> None:
        """Have the processes end, and take what they still have."""
        early = self._interrupts.came or self._stopping.reason == "errors"
        self._senders.tell(protocol.ABORT if early else protocol.FINISH)
        deadline = time.perf_counter() + _END_S
        while not self._senders.ended and time.perf_counter() < deadline:
            self._poll()
