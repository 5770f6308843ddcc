"""The cost of streams in CPU, to the load generator and to the bare client in C, in turn.

both = beside_bare(Streams(CHAT, concurrency=8, requests=2000, tokens=128), cores(), trials=3)
both["load"]["evaluated_per_cpu_s"], both["share"]["evaluated_per_cpu_s"]
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import msgspec

from nexus_tasks.load import generator
from nexus_tasks.load.requests import Item, Limits, Request, Stage
from nexus_tasks.load.response import COMPLETION
from nexus_tasks.load.selfcheck.cores import Cores, pinned
from nexus_tasks.load.selfcheck.mock_server import mock_server, program
from nexus_tasks.records.benchmark_rows import RequestRow, Watch
from nexus_tasks.records.store import Writer
from nexus_tasks.servers import route

CHAT = "/v1/chat/completions"
SHARES = ("tokens_per_s", "streaming_per_cpu_s", "evaluated_per_cpu_s")
"""The figures that are held against those of bare C."""


@dataclass(frozen=True)
class Streams:
    """Streams that a server is asked for; without delays it sends as fast as it can."""

    path: str
    concurrency: int
    requests: int
    tokens: int  # of each answer
    ttft_ms: float = 0
    itl_ms: float = 0


@dataclass(frozen=True)
class Cost:
    """The cost of a number of tokens."""

    tokens: int
    wall_s: float
    streaming_cpu_s: float  # of the processes that send and stamp
    total_cpu_s: float  # with that of the process that makes rows and writes the record
    errors: int
    in_flight: float | None
    pieces: int
    """Reads that brought something: tokens that come in one piece are cheaper than those that come alone."""

    def as_row(self) -> dict[str, Any]:
        """Tokens per second, and per second of CPU: while streaming, and with evaluation and record."""
        return {
            "tokens": self.tokens,
            "tokens_per_s": self.tokens / self.wall_s,
            "streaming_per_cpu_s": self.tokens / self.streaming_cpu_s,
            "evaluated_per_cpu_s": self.tokens / self.total_cpu_s,
            "errors": self.errors,
            "in_flight": self.in_flight,
            "tokens_per_piece": self.tokens / self.pieces,
        }


def items(tokens: int, path: str = COMPLETION) -> Iterator[Item]:
    """Requests of so many tokens, numbered."""
    number = 0
    while True:
        body = msgspec.json.encode({"prompt": "a", "stream": True, "n_predict": tokens, "seed": number})
        yield Item((Request(path, body, 1, tokens, exact_output=True),), key=str(number))
        number += 1


def beside_bare(streams: Streams, where: Cores, *, trials: int) -> dict[str, Any]:
    """Both costs as medians of so many trials, and the median of the shares: of each, that in its own pair."""
    pairs = [(bare(streams, where).as_row(), cost(streams, where).as_row()) for _ in range(trials)]
    return {
        "bare": median([row for row, _ in pairs]),
        "load": median([row for _, row in pairs]),
        "share": median([share(load, of) for of, load in pairs]),
    }


def share(load: Mapping[str, float], bare: Mapping[str, float]) -> dict[str, float]:
    """The load generator's figures as shares of those of bare C."""
    return {key: load[key] / bare[key] for key in SHARES}


def median(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each figure's median."""
    return {
        key: statistics.median(row[key] for row in rows) if all(row[key] is not None for row in rows) else None
        for key in rows[0]
    }


def cost(streams: Streams, where: Cores) -> Cost:
    """The cost of streams to the load generator, which writes their record meanwhile."""
    rows: list[RequestRow] = []
    cpu_s: list[float] = []  # of this process, from when the first request is made to the last row

    def asked() -> Iterator[Item]:
        cpu_s.append(time.process_time())
        yield from items(streams.tokens, streams.path)

    def keep(ended: list[RequestRow]) -> None:
        for row in ended:
            record.append(row)
        rows.extend(ended)
        cpu_s.append(time.process_time())

    with contextlib.ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory()), "record.jsonl")
        record = stack.enter_context(Writer(path, FileIO(path, "x")))
        address = stack.enter_context(mock_server(streams.ttft_ms, streams.itl_ms, core=where.server))
        stack.enter_context(pinned(where.client))
        watch = drive(address, streams.concurrency, streams.requests, asked(), keep)
    sent_s = watch.cpu_s or 0.0
    return Cost(
        tokens=streams.requests * streams.tokens,
        wall_s=watch.ended_s - watch.begun_s,
        streaming_cpu_s=sent_s,
        total_cpu_s=sent_s + cpu_s[-1] - cpu_s[0],
        errors=sum(not row.ok for row in rows),
        in_flight=watch.in_flight,
        pieces=sum(1 + sum(map(bool, row.itl_ms)) for row in rows),
    )


def bare(streams: Streams, where: Cores) -> Cost:
    """The cost of streams to the client in C."""
    with mock_server(streams.ttft_ms, streams.itl_ms, core=where.server) as address:
        port, core = address.rpartition(":")[2], -1 if where.client is None else where.client
        asked = (port, streams.concurrency, streams.requests, streams.tokens, core, streams.path)
        argv = [str(program("client")), *map(str, asked)]
        lines = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    cpu_s, wall_s, pieces = map(float, lines[-1].split())
    return Cost(streams.requests * streams.tokens, wall_s, cpu_s, cpu_s, 0, None, int(pieces))


def drive(
    address: str,
    concurrency: int,
    requests: int,
    asked: Iterator[Item],
    on_rows: Callable[[list[RequestRow]], None],
    warmup: int = 0,
) -> Watch:
    """Have the load generator ask a server, so many at a time."""
    stage = Stage("closed", concurrency=concurrency, requests=requests, warmup=warmup)
    return generator.run(
        route.to(address).resolved(),
        None,
        asked,
        stage,
        Limits(token_s=30),
        index=0,
        origin=time.perf_counter(),
        on_rows=on_rows,
    )
