"""Ledger of a run: results become entries of the journal, and count in the outcome.

ledger = Ledger(Outcome(total), history, twins)
ledger.answer(worker, ended)            # pending, until
ledger.write(journal)                   # one write for all that is pending; only then does it count
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol

import msgspec

from nexus_tasks.batches import schemas
from nexus_tasks.batches.entries import Answered, Begun, Entry, Failed, Server, SetAside
from nexus_tasks.batches.failures import Problem
from nexus_tasks.batches.items import Item, schema_name
from nexus_tasks.batches.options import Outcome
from nexus_tasks.batches.twins import Twins
from nexus_tasks.batches.window import Work
from nexus_tasks.batches.worker import Ended, Worker
from nexus_tasks.servers import answers
from nexus_tasks.servers.endpoint import Endpoint

TWINS_AT_ONCE = 256


class Sink(Protocol):
    """The journal, as far as a run needs it."""

    def write(self, entries: Sequence[Entry]) -> None:
        """Append entries in one write: all or none."""


class History(Protocol):
    """Results of earlier runs, by the index of an item."""

    def is_done(self, index: int) -> bool:
        """True where an item is answered or set aside."""

    def answered(self, index: int) -> Answered | None:
        """The entry that answered an item; None where it is not answered."""


class Ledger:
    """Results of a run.

    Args:
        twins: None where identical requests are asked each by itself.
    """

    def __init__(self, outcome: Outcome, history: History | None, twins: Twins | None) -> None:
        self.outcome = outcome
        self._history = history
        self._twins = twins
        self._done = bytearray(outcome.total)  # in this run
        self._entries: list[Entry] = []
        self._counts: list[Callable[[], None]] = []
        self._copies: deque[Iterator[Entry]] = deque()  # results of twins, made as they are written
        self._servers: dict[str, Endpoint] = {}

    @property
    def is_behind(self) -> bool:
        """True while results of twins are still to be written."""
        return bool(self._copies)

    def is_open(self, item: Item) -> bool:
        """True where an item is to be asked; a twin's result is that of its leader."""
        index = item.index
        if self._is_done(index):
            return False
        if item.request is None or self._twins is None:
            return True
        leader = self._twins.leader(index)
        if leader == index:
            return True
        if self._done[leader] or self._history is None or not self._history.is_done(leader):
            return False
        before = self._history.answered(leader)
        if before is None:  # it was set aside by an earlier run, and this one was reopened
            return True
        self._copies.append(self._copied([index], lambda index: _copy(before, index)))
        return False

    def misfit(self, item: Item) -> None:
        """Set an item aside that can't be asked."""
        if item.misfit is None:
            raise ValueError(f"item {item.index} can be asked")
        self._set_aside(SetAside(item.index, time.time(), item.misfit.kind, item.misfit.message))

    def begun(self, worker: Worker, works: Sequence[Work]) -> None:
        """Requests are about to be sent."""
        self._entries.append(Begun([work.item.index for work in works], worker.name, time.time()))

    def server(self, worker: Worker) -> None:
        """Note what an endpoint is, where that is news."""
        server = worker.watch.server
        if server is None or server is self._servers.get(worker.name):
            return
        before, self._servers[worker.name] = self._servers.get(worker.name), server
        if server != before:
            self._entries.append(
                Server(worker.name, time.time(), server.model, server.build, server.total_slots, server.n_ctx)
            )

    def answer(self, worker: Worker, ended: Ended) -> None:
        """An item has its answer, and so have its twins."""
        work, reading = ended.work, ended.reading
        request, schema = work.request, work.request.schema
        valid, reason = (None, None) if schema is None else schemas.check_answer(schema, reading.answer.text)
        entry = Answered(
            item=work.item.index,
            key=request.key.hex(),
            endpoint=worker.name,
            model=worker.served.model or reading.model or "",
            build=reading.build or worker.served.build,
            at=time.time(),
            latency_ms=_ms(ended.moment - work.begun),
            answer=reading.answer,
            usage=reading.usage,
            ttft_ms=None if reading.first is None else _ms(reading.first - work.begun),
            decode_tps=reading.decode_tps,
            schema=None if schema is None else schema_name(schema),
            valid=valid,
            invalid_reason=reason,
            attempts=work.sent,
        )
        self._done[entry.item] = 1
        self._entries.append(entry)
        self._counts.append(lambda: self._count_answer(worker, entry))
        self._copy_to_twins(entry.item, lambda index: _copy(entry, index))

    def failed(self, worker: Worker, work: Work, problem: Problem) -> None:
        """An attempt failed, and another will be made, or the item set aside."""
        message = answers.shown(problem.message, worker.key)
        self._entries.append(Failed(work.item.index, worker.name, time.time(), problem.kind, message))
        self._counts.append(lambda: self.outcome.retried.update([problem.kind]))
        worker.served.failed += 1

    def give_up(self, worker: Worker, work: Work, problem: Problem) -> None:
        """An item is set aside, and so are its twins."""
        message = answers.shown(problem.message, worker.key)
        entry = SetAside(work.item.index, time.time(), problem.kind, message, work.sent, worker.name)
        self._set_aside(entry)
        self._copy_to_twins(entry.item, lambda index: msgspec.structs.replace(entry, item=index, attempts=0))

    def write(self, journal: Sink) -> None:
        """Write what is pending, in one write; what is written counts."""
        while self._copies and len(self._entries) < TWINS_AT_ONCE:
            for copy in islice(self._copies[0], TWINS_AT_ONCE):
                self._entries.append(copy)
                self._counts.append(self._counting(copy))
            if len(self._entries) < TWINS_AT_ONCE:
                self._copies.popleft()
        if self._entries:
            journal.write(self._entries)
        for count in self._counts:
            count()
        self._entries, self._counts = [], []

    def _set_aside(self, entry: SetAside) -> None:
        self._done[entry.item] = 1
        self._entries.append(entry)
        self._counts.append(lambda: self._count_set_aside(entry))

    def _copy_to_twins(self, leader: int, copied: Callable[[int], Entry]) -> None:
        if self._twins is None:
            return
        followers = self._twins.followers(leader)
        if len(followers):
            self._copies.append(self._copied(map(int, followers), copied))

    def _copied(self, indices: Iterable[int], copied: Callable[[int], Entry]) -> Iterator[Entry]:
        for index in indices:
            if not self._is_done(index):
                self._done[index] = 1
                yield copied(index)

    def _is_done(self, index: int) -> bool:
        return bool(self._done[index]) or (self._history is not None and self._history.is_done(index))

    def _counting(self, copy: Entry) -> Callable[[], None]:
        if isinstance(copy, SetAside):
            return lambda: self._count_set_aside(copy)
        if isinstance(copy, Answered):
            return lambda: self._count_twin(copy)
        raise TypeError(type(copy))

    def _count_answer(self, worker: Worker, entry: Answered) -> None:
        usage, outcome, served = entry.usage, self.outcome, worker.served
        outcome.answered += 1
        served.answered += 1
        outcome.invalid += entry.valid is False
        outcome.prompt_tokens += usage.prompt_tokens or 0
        outcome.output_tokens += usage.output_tokens or 0
        outcome.cached_tokens += usage.cached_tokens or 0
        served.prompt_tokens += usage.prompt_tokens or 0
        served.output_tokens += usage.output_tokens or 0

    def _count_twin(self, entry: Answered) -> None:
        self.outcome.answered += 1
        self.outcome.twins += 1
        self.outcome.invalid += entry.valid is False

    def _count_set_aside(self, entry: SetAside) -> None:
        self.outcome.set_aside[entry.kind] += 1


def _copy(entry: Answered, index: int) -> Answered:
    same_as = entry.item if entry.same_as is None else entry.same_as
    return msgspec.structs.replace(entry, item=index, same_as=same_as, at=time.time())


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
