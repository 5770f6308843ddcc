"""The figures: error of TTFT and ITL, cost in CPU, memory and start, beside those of a bare client.

docs/accuracy.md says what each of them means.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from nexus_tasks.core.provenance import ROOT
from nexus_tasks.load.response import COMPLETION
from nexus_tasks.load.selfcheck.bounds import PACED, checks
from nexus_tasks.load.selfcheck.cores import Cores, cores, pinned
from nexus_tasks.load.selfcheck.costs import CHAT, Streams, beside_bare, cost, drive, items
from nexus_tasks.load.selfcheck.mock_server import mock_server, true_times
from nexus_tasks.records.benchmark_rows import RequestRow

TTFT_MS, ITL_MS = 50.0, 5.0
TOKENS, CHAT_TOKENS = 1000, 128
"""Of an answer, where cost is the matter: of llama-server's own completions, and of chats."""

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


def error(concurrency: int, requests: int, tokens: int, where: Cores) -> dict[str, Any]:
    """The errors of TTFT and of the gaps between tokens (ms), at TTFT 50 ms and ITL 5 ms."""
    rows: list[RequestRow] = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "times"
        with mock_server(TTFT_MS, ITL_MS, core=where.server, log=log) as address, pinned(where.client):
            watch = drive(address, concurrency, requests, items(tokens), rows.extend, warmup=concurrency)
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
        drive(address, 8, requests, items(tokens), look)
    early = [size for reached, size in sizes if reached <= requests * tokens / 10]
    return {"tokens": seen, "early_mib": max(early or [sizes[0][1]]), "peak_mib": max(size for _, size in sizes)}


def startup(where: Cores) -> float:
    """The CPU (s) that a run of one request takes, imports and processes included."""
    with mock_server(core=where.server) as address, pinned(where.client):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", _STARTUP, address], check=True, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def costs_of(some: Callable[[int, int], int]) -> dict[str, Streams]:
    """The streams whose cost is measured, by name; ``some`` gives how many of a number, and no fewer than another."""
    answers = {
        f"completion at {concurrency}": Streams(
            COMPLETION, concurrency, requests=some(128, concurrency), tokens=some(TOKENS, 50)
        )
        for concurrency in (1, 8, 64)
    }
    chats = {
        f"chat at {concurrency}": Streams(CHAT, concurrency, requests=some(1000, 2 * concurrency), tokens=CHAT_TOKENS)
        for concurrency in (8, 64)
    }
    paced = Streams(COMPLETION, 64, requests=some(128, 64), tokens=some(TOKENS, 100), ttft_ms=5, itl_ms=1)
    return {**answers, **chats, PACED: paced}


def measure(step: Callable[[str], None], *, scale: float = 1.0, trials: int = 5) -> dict[str, Any]:
    """All figures, and beside them the bounds.

    Args:
        step: gets the name of each measurement before it begins.
        scale: shrinks what is asked for; below 1 the figures are rough.
        trials: of costs, which are medians.
    """
    where = cores()

    def some(number: int, at_least: int = 1) -> int:
        return max(round(number * scale), at_least)

    figures: dict[str, Any] = {"cores": {"server": where.server, "client": where.client}, "errors": [], "costs": {}}
    for concurrency, rounds in ((1, 20), (16, 10), (64, 10)):
        step(f"error at concurrency {concurrency}")
        figures["errors"].append(error(concurrency, some(concurrency * rounds, concurrency), some(100, 10), where))
    for name, streams in costs_of(some).items():
        step(f"cost of {name}")
        figures["costs"][name] = beside_bare(streams, where, trials=trials)
    step("10,000 requests at concurrency 256")
    figures["many"] = cost(Streams(COMPLETION, 256, requests=some(10_000, 256), tokens=16), where).as_row()
    step("memory over a million tokens")
    figures["memory"] = memory(some(1000, 20), TOKENS, where)
    step("start")
    figures["startup_cpu_s"] = startup(where)
    figures["checks"] = [
        {"name": check.name, "value": check.value, "bound": check.bound, "at_most": check.at_most, "ok": check.ok}
        for check in checks(figures)
    ]
    return figures
