"""Batches with made-up answers: the entries of their journals, and the records that come of them.

    run = Run({"gpu-01/main": Server(slots=4)})
    run.work(range(100))                            # to its end
    record = recorded(tmp_path, run.entries, items=100)

``Run`` is a small model of servers with slots: an item goes to whichever has one free.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexus_tasks.batches import entries as lines
from nexus_tasks.batches import journal, record
from nexus_tasks.batches.asking import Asking
from nexus_tasks.batches.entries import Answer, Answered, Begun, Entry, Failed, Session, SetAside, Usage
from nexus_tasks.batches.index import Index
from nexus_tasks.batches.inputs import Input
from nexus_tasks.batches.items import MISFITS
from nexus_tasks.batches.job import Job
from nexus_tasks.batches.options import Options
from nexus_tasks.batches.record import Origin
from nexus_tasks.batches.sources import Source
from nexus_tasks.records import store
from nexus_tasks.records.store import BatchRecord

NOON = 1_795_348_800.0  # 2026-11-22 12:00 UTC
CREATED = "2026-11-22T12:00:00+00:00"
ASKING = Asking(parameters={"max_tokens": 200, "temperature": 0.7})
CITY = "A city"
WORDS = (
    "Lyon lies where the Rhône and the Saône meet.",
    "It is the third largest city of the country.",
    "Its old town has been lived in since Roman times.",
    "Silk was woven here for four hundred years.",
)


@dataclass
class Server:
    """A server with slots: an answer has a first token after ``ttft_ms``, and then one each ``itl_ms``."""

    slots: int | None = 4
    ttft_ms: float = 120.0
    itl_ms: float = 8.0
    model: str = "qwen3-8b-q4-k-m"
    build: str | None = "b11434-0c1e57098"
    counts: bool = True


Fate = Callable[[int, int], "tuple[str, str, bool] | None"]
"""The kind and message with which an attempt (item, number from 1) fails, and whether it is the last."""


def all_well(item: int, attempt: int) -> None:
    """Nothing fails."""


@dataclass
class Run:
    """A batch at work. Whatever happens is appended to ``entries``."""

    servers: dict[str, Server]
    fate: Fate = all_well
    reply: Callable[[int], Mapping[str, Any]] = lambda item: {}
    at: float = NOON
    entries: list[Entry] = field(default_factory=list)
    attempts: dict[int, int] = field(default_factory=dict)

    def work(self, items: Iterable[int], *, seconds: float | None = None, ended: str | None = "complete") -> list[int]:
        """A session: it works on items until all have their end, or for some seconds; what is left is returned.

        Args:
            ended: its outcome; None where it is killed.
        """
        self.entries.append(Session(self.at))
        self.entries += [
            lines.Server(name, self.at, one.model, one.build, one.slots, 8192) for name, one in self.servers.items()
        ]
        left, until = list(items)[::-1], self.at + (seconds or 1e12)
        free = [(self.at + place * 1e-3, name) for name, one in self.servers.items() for place in range(one.slots or 4)]
        heapq.heapify(free)
        ends: list[tuple[float, Entry]] = []
        begun: list[tuple[float, Entry]] = []
        unfinished = []
        while left and free:
            at, name = heapq.heappop(free)
            if at >= until:
                break
            item = left.pop()
            end = self._ended(item, name, at)
            if isinstance(end, SetAside) and end.kind in MISFITS:
                ends.append((at, SetAside(item, at, end.kind, end.message)))
                heapq.heappush(free, (at, name))
                continue
            begun.append((at, Begun([item], name, at)))
            if end.at > until:
                unfinished.append(item)
                continue
            ends.append((end.at, end))
            if isinstance(end, Failed):
                left.append(item)
            heapq.heappush(free, (end.at, name))
        self.entries += [entry for _, entry in sorted([*ends, *begun], key=lambda pair: pair[0])]
        self.at = min(until, max((at for at, _ in [*begun, *ends]), default=self.at))
        if ended is not None:
            self.entries.append(Session(self.at, ended))
        return sorted([*left, *unfinished])

    def _ended(self, item: int, name: str, at: float) -> Answered | Failed | SetAside:
        """The end of a request that begins now."""
        attempt = self.attempts[item] = self.attempts.get(item, 0) + 1
        failed = self.fate(item, attempt)
        server, draw = self.servers[name], random.Random(item)  # noqa: S311 - made-up answers
        if failed:
            kind, message, last = failed
            end = at + 0.25
            return SetAside(item, end, kind, message, attempt, name) if last else Failed(item, name, end, kind, message)
        tokens = round(40 + 160 * draw.random() ** 2)
        ttft_ms = server.ttft_ms * (0.7 + 0.6 * draw.random())
        took_ms = ttft_ms + tokens * server.itl_ms * (0.95 + 0.1 * draw.random())
        made: dict[str, Any] = {
            "key": f"{item:032x}", "endpoint": name, "model": server.model, "build": server.build,
            "at": at + took_ms / 1000, "latency_ms": took_ms, "ttft_ms": ttft_ms, "decode_tps": 1000 / server.itl_ms,
            "answer": Answer(text=" ".join(draw.sample(WORDS, 3)), finish_reason="stop"), "attempts": attempt,
            "usage": Usage(200 + item % 50, tokens, 128) if server.counts else Usage(),
        }  # fmt: skip
        return Answered(item=item, **{**made, **self.reply(item)})


def job(items: int, asking: Asking = ASKING, **changes: Any) -> Job:
    """The declaration of a batch."""
    told: dict[str, Any] = {
        "name": "prompts-20261122-1200",
        "created_at": CREATED,
        "input": Input(Source("/home/ada/prompts.jsonl", "jsonl"), asking),
        "index": Index(items, items, {}, "ab" * 32),
        "targets": ["gpu-hosts"],
        "options": Options(),
        "model": "qwen3-8b-q4-k-m",
        **changes,
    }
    return Job(**told)


def origins(wanted: Collection[int]) -> dict[int, Origin]:
    """Lines, ids and prompts of made-up rows."""
    return {item: Origin(item + 1, f"q-{item}", f"Tell me of city {item}.") for item in wanted}


def recorded(
    root: Path, entries: Sequence[Entry], items: int, *, origins: record.Origins = origins,
    secrets: Sequence[str] = (), **changes: Any,
) -> BatchRecord:  # fmt: skip
    """The record that comes of a journal with these entries, written and read back."""
    folder = root / "job"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "journal.jsonl"
    path.write_bytes(b"".join(map(journal.line_of, entries)))
    state = journal.read(path, items)
    made = record.write(
        job(items, **changes), folder, state, journal.entries(path), origins=origins, secrets=secrets,
        root=root / "results",
    )  # fmt: skip
    return store.load(made, "batch")


def unequal(items: int = 400) -> Run:
    """Two servers of unequal speed, of which the slower is replaced by another build half-way; a schema that one in
    ten answers misses; an interruption; and rows that fail for several reasons."""

    def fate(item: int, attempt: int) -> tuple[str, str, bool] | None:
        if item % 61 == 7:
            return "too_long", "the prompt has 9,120 tokens, and a slot of gpu-01/main holds 8,192", True
        if item % 97 == 5:
            return "malformed", f"line {item + 1} is not valid JSON: expected a value at column 12", True
        if item % 23 == 3 and attempt < 3:
            return "disconnected", "gpu-02/main closed the connection in the middle of its answer", False
        if item == 200:
            return "attempts", "5 attempts failed; the last: HTTP 500 from gpu-02/main: <b>cannot decode</b>", True
        return None

    def reply(item: int) -> dict[str, Any]:
        if item % 10 == 9:
            reason = "$.population: it is a string, not an integer" if item % 20 == 9 else "$.name is missing"
            cut = Answer(text='{"name": "Lyon", "population": "half a million"}', finish_reason="length")
            return {"schema": CITY, "valid": False, "invalid_reason": reason, "answer": cut}
        good = Answer(text='{"name": "Lyon", "population": 522250}', finish_reason="stop")
        return {"schema": CITY, "valid": True, "answer": good} if item % 2 else {}

    run = Run({"gpu-01/main": Server(), "gpu-02/main": Server(slots=2, itl_ms=16.0)}, fate, reply)
    left = run.work(range(items), seconds=30.0, ended="interrupted")
    run.at += 7200.0
    run.servers["gpu-02/main"].build = "b11501-7f00d1e22"
    run.work(left)
    return run
