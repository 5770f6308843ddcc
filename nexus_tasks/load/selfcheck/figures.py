"""The figures: error of TTFT and ITL, cost in CPU, memory and start, beside those of a bare client.

docs/accuracy.md says what each of them means.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from nexus_tasks.core.provenance import ROOT
from nexus_tasks.load import generator
from nexus_tasks.load.requests import Item, Limits, Request, Stage
from nexus_tasks.load.selfcheck.bounds import checks
from nexus_tasks.load.selfcheck.cores import Cores, cores, pinned
from nexus_tasks.load.selfcheck.mock_server import mock_server, program, true_times
from nexus_tasks.records.benchmark_rows import RequestRow, Watch
from nexus_tasks.servers import route

TTFT_MS, ITL_MS = 50.0, 5.0
TOKENS = 1000
"""Of an answer, where cost is the matter."""

_STARTUP = """
import sys, time
from nexus_tasks.load import generator
from nexus_tasks.load.requests import Item, Limits, Request, Stage
from nexus_tasks.servers import route
item = Item((Request("/completion", b'{"n_predict": 1}'),))
way = route.to(sys.argv[1]).resolved()
generator.run(way, None, [item], Stage("closed", concurrency=1, requests=1), Limits(), index=0,
              origin=time.perf_counter(), on_rows=lambda rows: None)
"""


@dataclass(frozen=True)
class Cost:
    """The cost of a number of tokens."""

    tokens: int
    wall_s: float
    streaming_cpu_s: float
    total_cpu_s: float
    errors: int
    in_flight: float | None
    pieces: int
    """Reads that brought something: tokens that come in one piece are cheaper than those that come alone."""

    def as_row(self) -> dict[str, Any]:
        """Tokens per second, and per second of CPU: while streaming, and with the evaluation."""
        return {
            "tokens": self.tokens,
            "tokens_per_s": self.tokens / self.wall_s,
            "streaming_per_cpu_s": self.tokens / self.streaming_cpu_s,
            "evaluated_per_cpu_s": self.tokens / self.total_cpu_s,
            "errors": self.errors,
            "in_flight": self.in_flight,
            "tokens_per_piece": self.tokens / self.pieces,
        }


def items(tokens: int) -> Iterator[Item]:
    """Requests of so many tokens, numbered."""
    number = 0
    while True:
        body = json.dumps({"prompt": "a", "stream": True, "n_predict": tokens, "seed": number}).encode()
        yield Item((Request("/completion", body, 1, tokens, exact_output=True),), key=str(number))
        number += 1


def error(concurrency: int, requests: int, tokens: int, where: Cores) -> dict[str, Any]:
    """The errors of TTFT and of the gaps between tokens (ms), at TTFT 50 ms and ITL 5 ms."""
    rows: list[RequestRow] = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "times"
        with mock_server(TTFT_MS, ITL_MS, core=where.server, log=log) as address, pinned(where.client):
            watch = _drive(address, concurrency, requests, tokens, rows.extend, warmup=concurrency)
        truth = true_times(log)
    ttft_errors, gap_errors = [], []
    for row in rows:
        if row.phase != "run" or not row.ok or row.untimed:
            continue
        received, sent = truth[int(row.key or 0)]
        ttft_errors.append(abs(row.ttft_ms - (sent[0] - received) / 1e6))
        gap_errors.append(np.abs(np.asarray(row.itl_ms) - np.diff(sent) / 1e6))
    gaps = np.concatenate(gap_errors)
    return {
        "concurrency": concurrency,
        "requests": len(ttft_errors),
        "errors": sum(not row.ok for row in rows),
        "ttft_median_ms": float(np.median(ttft_errors)),
        "ttft_p99_ms": float(np.percentile(ttft_errors, 99)),
        "itl_median_ms": float(np.median(gaps)),
        "itl_p99_ms": float(np.percentile(gaps, 99)),
        "in_flight": watch.in_flight,
        "lag_p99_ms": watch.lag_ms.p99,
    }


def cost(ttft_ms: float, itl_ms: float, concurrency: int, requests: int, tokens: int, where: Cores) -> Cost:
    """The cost of so many tokens to the load generator."""
    failed = pieces = 0

    def count(rows: list[RequestRow]) -> None:
        nonlocal failed, pieces
        failed += sum(not row.ok for row in rows)
        pieces += sum(1 + sum(map(bool, row.itl_ms)) for row in rows)

    with mock_server(ttft_ms, itl_ms, core=where.server) as address, pinned(where.client):
        begun = time.process_time()
        watch = _drive(address, concurrency, requests, tokens, count)
        own_s = time.process_time() - begun
    wall_s, sent_s = watch.ended_s - watch.begun_s, watch.cpu_s or 0.0
    return Cost(requests * tokens, wall_s, sent_s, sent_s + own_s, failed, watch.in_flight, pieces)


def bare(ttft_ms: float, itl_ms: float, concurrency: int, requests: int, tokens: int, where: Cores) -> Cost:
    """The cost of so many tokens to the client in C."""
    with mock_server(ttft_ms, itl_ms, core=where.server) as address:
        numbers = (
            address.rpartition(":")[2],
            concurrency,
            requests,
            tokens,
            -1 if where.client is None else where.client,
        )
        argv = [str(program("client")), *map(str, numbers)]
        lines = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    cpu_s, wall_s, pieces = map(float, lines[-1].split())
    return Cost(requests * tokens, wall_s, cpu_s, cpu_s, 0, None, int(pieces))


def memory(requests: int, tokens: int, where: Cores) -> dict[str, Any]:
    """The most memory (MiB) of all processes together in a run of very many tokens, and after a tenth of it."""
    own = psutil.Process()
    sizes: list[tuple[int, float]] = []
    seen = 0

    def look(rows: list[RequestRow]) -> None:
        nonlocal seen
        seen += sum(row.output_tokens or 0 for row in rows)
        if not sizes or seen - sizes[-1][0] > requests * tokens / 200:
            senders = [child for child in own.children() if "nexus_tasks.load.sender" in child.cmdline()]
            sizes.append((seen, sum(process.memory_info().rss for process in (own, *senders)) / 2**20))

    with mock_server(core=where.server) as address, pinned(where.client):
        _drive(address, 8, requests, tokens, look)
    early = [size for reached, size in sizes if reached <= requests * tokens / 10]
    return {"tokens": seen, "early_mib": max(early or [sizes[0][1]]), "peak_mib": max(size for _, size in sizes)}


def startup(where: Cores) -> float:
    """The CPU (s) that a run of one request takes, imports and processes included."""
    with mock_server(core=where.server) as address, pinned(where.client):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", _STARTUP, address], check=True, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _drive(
    address: str,
    concurrency: int,
    requests: int,
    tokens: int,
    on_rows: Callable[[list[RequestRow]], None],
    warmup: int = 0,
) -> Watch:
    stage = Stage("closed", concurrency=concurrency, requests=requests, warmup=warmup)
    return generator.run(
        route.to(address).resolved(),
        None,
        items(tokens),
        stage,
        Limits(token_s=30),
        index=0,
        origin=time.perf_counter(),
        on_rows=on_rows,
    )


def median(costs: Sequence[Cost]) -> dict[str, Any]:
    """Each figure's median."""
    rows = [entry.as_row() for entry in costs]
    return {
        key: statistics.median(row[key] for row in rows) if all(row[key] is not None for row in rows) else None
        for key in rows[0]
    }


def measure(step: Callable[[str], None], *, scale: float = 1.0, trials: int = 2) -> dict[str, Any]:
    """All figures, and beside them the bounds.

    Args:
        step: gets the name of each measurement before it begins.
        scale: shrinks what is asked for; below 1 the figures are rough.
        trials: of costs, which are medians.
    """
    where = cores()

    def some(number: float, at_least: int = 1) -> int:
        return max(round(number * scale), at_least)

    def beside_bare(ttft_ms: float, itl_ms: float, concurrency: int, requests: int, tokens: int) -> dict[str, Any]:
        asked = (ttft_ms, itl_ms, concurrency, requests, tokens, where)
        pairs = [(bare(*asked), cost(*asked)) for _ in range(trials)]
        return {"bare": median([a for a, _ in pairs]), "load": median([b for _, b in pairs])}

    figures: dict[str, Any] = {"cores": {"server": where.server, "client": where.client}, "errors": [], "ceiling": {}}
    for concurrency, rounds in ((1, 20), (16, 10), (64, 10)):
        step(f"error at concurrency {concurrency}")
        figures["errors"].append(error(concurrency, some(concurrency * rounds, concurrency), some(100, 10), where))
    for concurrency in (1, 8, 64):
        step(f"ceiling at concurrency {concurrency}")
        figures["ceiling"][concurrency] = beside_bare(0, 0, concurrency, some(256, concurrency), some(TOKENS, 50))
    step("64 streams of 1,000 tokens/s")
    figures["paced"] = beside_bare(5, 1, 64, some(320, 64), some(TOKENS, 100))
    step("10,000 requests at concurrency 256")
    figures["many"] = cost(0, 0, 256, some(10_000, 256), 16, where).as_row()
    step("memory over a million tokens")
    figures["memory"] = memory(some(1000, 20), TOKENS, where)
    step("start")
    figures["startup_cpu_s"] = startup(where)
    figures["checks"] = [
        {"name": check.name, "value": check.value, "bound": check.bound, "at_most": check.at_most, "ok": check.ok}
        for check in checks(figures)
    ]
    return figures
