"""How exact the load generator is and what it costs, measured against a server with a known schedule.

    nox -s accuracy [-- --json]

The server (tests/mock_server/server.c) sends each token at its time and tells when it really did, so its own jitter
is not charged to the client. A bare C client (client.c beside it) shows in the same run what the machine can do.
Client and server have a core each. docs/accuracy.md says what each figure means.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from nexus_tasks.core.errors import UsageError, command_line
from nexus_tasks.core.provenance import ROOT
from nexus_tasks.load import generator
from nexus_tasks.load.generator import Item, Limits, Request, Row, Stage, Watch

SOURCES = ROOT / "tests" / "mock_server"
TTFT_MS, ITL_MS = 50.0, 5.0
TOKENS = 1000
"""Of an answer, where cost is the matter."""

_STARTUP = """
import json, sys, time
from nexus_tasks.load import generator
item = generator.Item((generator.Request("/completion", b'{"n_predict": 1}'),))
generator.run(sys.argv[1], None, [item], generator.Stage("closed", concurrency=1, requests=1),
              generator.Limits(), index=0, origin=time.perf_counter(), on_rows=lambda rows: None)
"""


@dataclass(frozen=True)
class Check:
    """A figure and the bound it has to keep; ``at_most`` False means at least."""

    name: str
    value: float
    bound: float
    at_most: bool = False

    @property
    def ok(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound


@dataclass(frozen=True)
class Cores:
    """Which core serves and which asks; None where there is only one, and neither is pinned."""

    server: int | None
    client: int | None


@dataclass(frozen=True)
class Cost:
    """What a number of tokens took."""

    tokens: int
    wall_s: float
    streaming_cpu_s: float
    total_cpu_s: float
    errors: int
    in_flight: float | None
    pieces: int
    """How many times something arrived: tokens that come in one piece are cheaper than those that come alone."""

    def as_row(self) -> Row:
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


def program(name: str) -> Path:
    """The compiled server or client, compiled when its source is new.

    Raises:
        UsageError: there is no C compiler, or it fails.
    """
    source = SOURCES / f"{name}.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama-nexus" / "accuracy"
    binary = cache / f"{name}-{digest}"
    if binary.exists():
        return binary
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        made = Path(folder) / name
        try:
            subprocess.run(["cc", "-O2", "-o", made, source], check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise UsageError("no C compiler: there is no cc", hint="install gcc or clang") from error
        except subprocess.CalledProcessError as error:
            raise UsageError(f"cc fails on {source}: {error.stderr.strip()[:300]}", hint="see its output") from error
        made.rename(binary)
    return binary


def cores() -> Cores:
    """The last core for the client, the first for the server."""
    available = sorted(os.sched_getaffinity(0))
    return Cores(available[0], available[-1]) if len(available) > 1 else Cores(None, None)


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Have this process and those it starts on one core."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def mock_server(
    ttft_ms: float = 0, itl_ms: float = 0, *, core: int | None = None, log: Path | None = None, closes: bool = False
) -> Iterator[str]:
    """Run the server; gives its address.

    Args:
        core: it is pinned to.
        log: gets the true times of each answer; read it with :func:`true_times` after the block.
        closes: whether connections end with their answers, as those of llama-server do.
    """
    argv = [str(program("server")), str(round(ttft_ms * 1000)), str(round(itl_ms * 1000))]
    argv += [str(-1 if core is None else core), str(log or ""), *(["close"] if closes else [])]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = int(process.stdout.readline()) if process.stdout else 0
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def true_times(log: Path) -> dict[int, tuple[int, NDArray[np.int64]]]:
    """By request: when it arrived, and when each token was sent (ns of the monotonic clock)."""
    words = np.fromfile(log, dtype=np.int64)
    found, at = {}, 0
    while at < len(words):
        seed, count, received = (int(word) for word in words[at : at + 3])
        found[seed] = (received, words[at + 3 : at + 3 + count])
        at += 3 + count
    return found


def items(tokens: int) -> Iterator[Item]:
    """Requests of so many tokens, numbered."""
    number = 0
    while True:
        body = json.dumps({"prompt": "a", "stream": True, "n_predict": tokens, "seed": number}).encode()
        yield Item((Request("/completion", body, 1, tokens, exact_output=True),), key=str(number))
        number += 1


# --- what is measured


def error(concurrency: int, requests: int, tokens: int, where: Cores) -> Row:
    """The errors of TTFT and of the gaps between tokens (ms), at TTFT 50 ms and ITL 5 ms."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "times"
        with mock_server(TTFT_MS, ITL_MS, core=where.server, log=log) as address, pinned(where.client):
            watch = _drive(address, concurrency, requests, tokens, rows.extend, warmup=concurrency)
        truth = true_times(log)
    ttft_errors, gap_errors = [], []
    for row in rows:
        if row["phase"] != "run" or not row["ok"]:
            continue
        received, sent = truth[int(row["key"])]
        ttft_errors.append(abs(row["ttft_ms"] - (sent[0] - received) / 1e6))
        gap_errors.append(np.abs(np.asarray(row["itl_ms"]) - np.diff(sent) / 1e6))
    gaps = np.concatenate(gap_errors)
    return {
        "concurrency": concurrency,
        "requests": len(ttft_errors),
        "errors": sum(not row["ok"] for row in rows),
        "ttft_median_ms": float(np.median(ttft_errors)),
        "ttft_p99_ms": float(np.percentile(ttft_errors, 99)),
        "itl_median_ms": float(np.median(gaps)),
        "itl_p99_ms": float(np.percentile(gaps, 99)),
        "in_flight": watch.in_flight,
        "lag_p99_ms": watch.lag_ms["p99"],
    }


def cost(ttft_ms: float, itl_ms: float, concurrency: int, requests: int, tokens: int, where: Cores) -> Cost:
    """What the load generator takes for so many tokens."""
    failed = pieces = 0

    def count(rows: list[Row]) -> None:
        nonlocal failed, pieces
        failed += sum(not row["ok"] for row in rows)
        pieces += sum(1 + sum(map(bool, row["itl_ms"])) for row in rows)

    with mock_server(ttft_ms, itl_ms, core=where.server) as address, pinned(where.client):
        begun = time.process_time()
        watch = _drive(address, concurrency, requests, tokens, count)
        own_s = time.process_time() - begun
    wall_s = watch.ended_s - watch.begun_s
    return Cost(requests * tokens, wall_s, watch.cpu_s, watch.cpu_s + own_s, failed, watch.in_flight, pieces)


def bare(ttft_ms: float, itl_ms: float, concurrency: int, requests: int, tokens: int, where: Cores) -> Cost:
    """What the client in C takes."""
    with mock_server(ttft_ms, itl_ms, core=where.server) as address:
        numbers = (
            address.rpartition(":")[2],
            concurrency,
            requests,
            tokens,
            -1 if where.client is None else where.client,
        )
        argv = [str(program("client")), *map(str, numbers)]
        said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    cpu_s, wall_s, pieces = map(float, said[-1].split())
    return Cost(requests * tokens, wall_s, cpu_s, cpu_s, 0, None, int(pieces))


def memory(requests: int, tokens: int, where: Cores) -> Row:
    """The most memory (MiB) of all processes together in a run of very many tokens, and after a tenth of it."""
    own = psutil.Process()
    sizes: list[tuple[int, float]] = []
    seen = 0

    def look(rows: list[Row]) -> None:
        nonlocal seen
        seen += sum(row["output_tokens"] or 0 for row in rows)
        if not sizes or seen - sizes[-1][0] > requests * tokens / 200:
            wires = [child for child in own.children() if "nexus_tasks.load.sender" in child.cmdline()]
            sizes.append((seen, sum(process.memory_info().rss for process in (own, *wires)) / 2**20))

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


def _drive(address: str, concurrency: int, requests: int, tokens: int, on_rows: Any, warmup: int = 0) -> Watch:
    stage = Stage("closed", concurrency=concurrency, requests=requests, warmup=warmup)
    return generator.run(
        address, None, items(tokens), stage, Limits(token_s=30), index=0, origin=time.perf_counter(), on_rows=on_rows
    )


def median(costs: Sequence[Cost]) -> Row:
    """Each figure's median."""
    rows = [entry.as_row() for entry in costs]
    return {
        key: statistics.median(row[key] for row in rows) if all(row[key] is not None for row in rows) else None
        for key in rows[0]
    }


def measure(console: Console, *, scale: float = 1.0, trials: int = 2) -> Row:
    """All figures. ``scale`` shrinks what is asked for; below 1 the figures are rough."""
    where = cores()

    def some(number: float, least: int = 1) -> int:
        return max(round(number * scale), least)

    def step(what: str) -> None:
        console.print(f"  {what} ...", highlight=False)

    figures: Row = {"cores": {"server": where.server, "client": where.client}, "errors": [], "ceiling": {}}
    for concurrency, rounds in ((1, 20), (16, 10), (64, 10)):
        step(f"error at concurrency {concurrency}")
        figures["errors"].append(error(concurrency, some(concurrency * rounds, concurrency), some(100, 10), where))
    for concurrency in (1, 8, 64):
        step(f"ceiling at concurrency {concurrency}")
        requests = some(256, concurrency)
        asked = (0, 0, concurrency, requests, some(TOKENS, 50), where)
        pairs = [(bare(*asked), cost(*asked)) for _ in range(trials)]
        figures["ceiling"][concurrency] = {"bare": median([a for a, _ in pairs]), "load": median([b for _, b in pairs])}
    step("64 streams of 1,000 tokens/s")
    asked = (5, 1, 64, some(320, 64), some(TOKENS, 100), where)
    pairs = [(bare(*asked), cost(*asked)) for _ in range(trials)]
    figures["paced"] = {"bare": median([a for a, _ in pairs]), "load": median([b for _, b in pairs])}
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


def checks(figures: Row) -> list[Check]:
    """The figures beside the bounds that the load generator has to keep."""
    found = []
    for row in figures["errors"]:
        bound = 0.5 if row["concurrency"] > 16 else 0.3
        for metric in ("ttft", "itl"):
            name = f"{metric.upper()} error at {row['concurrency']}, ms"
            found.append(Check(f"{name}, median", row[f"{metric}_median_ms"], bound, at_most=True))
            found.append(Check(f"{name}, p99", row[f"{metric}_p99_ms"], 3.0, at_most=True))
    for concurrency, both in figures["ceiling"].items():
        found.append(
            Check(f"streaming at {concurrency}, tokens per CPU-s", both["load"]["streaming_per_cpu_s"], 150_000)
        )
        found.append(
            Check(f"evaluated at {concurrency}, tokens per CPU-s", both["load"]["evaluated_per_cpu_s"], 100_000)
        )
    paced = figures["paced"]
    share = paced["load"]["tokens_per_s"] / paced["bare"]["tokens_per_s"]
    found.append(Check("paced, share of what bare C sustains", share, 0.97))
    found.append(Check("paced, tokens per CPU-s", paced["load"]["streaming_per_cpu_s"], 90_000))
    found.append(Check("errors in 10,000 requests at 256", figures["many"]["errors"], 0, at_most=True))
    growth = figures["memory"]["peak_mib"] / figures["memory"]["early_mib"]
    found.append(Check("memory, peak over what it was after a tenth", growth, 1.5, at_most=True))
    found.append(Check("start, CPU-s", figures["startup_cpu_s"], 2.0, at_most=True))
    return found


# --- for people


def print_tables(figures: Row, console: Console) -> None:
    """All figures, as tables that fit 80 columns."""
    table = Table(title="error of what is reported, ms (TTFT 50, ITL 5)", title_justify="left", title_style="bold")
    for column in ("concurrency", "TTFT median", "p99", "ITL median", "p99", "in flight"):
        table.add_column(column, justify="right")
    for row in figures["errors"]:
        numbers = (row[f"{metric}_{which}_ms"] for metric in ("ttft", "itl") for which in ("median", "p99"))
        table.add_row(str(row["concurrency"]), *(f"{number:.3f}" for number in numbers), _number(row["in_flight"]))
    console.print(table)
    table = Table(title="cost: tokens per second, and per second of CPU", title_justify="left", title_style="bold")
    for column in ("", "per s", "per CPU-s, streaming", "with evaluation", "tokens per piece"):
        table.add_column(column, justify="right" if column else "left")
    named = {f"no delay, {concurrency}": both for concurrency, both in figures["ceiling"].items()}
    for name, both in {**named, "64 x 1,000/s": figures["paced"]}.items():
        for label, row in ((name, both["load"]), ("  bare C", both["bare"])):
            numbers = (f"{row[key]:,.0f}" for key in ("tokens_per_s", "streaming_per_cpu_s", "evaluated_per_cpu_s"))
            table.add_row(label, *numbers, f"{row['tokens_per_piece']:.2f}")
    console.print(table)
    table = Table(title="bounds", title_justify="left", title_style="bold")
    for column in ("", "measured", "bound", ""):
        table.add_column(column, justify="right" if column else "left")
    for check in figures["checks"]:
        limit = f"{'≤' if check['at_most'] else '≥'} {_number(check['bound'])}"
        table.add_row(check["name"], _number(check["value"]), limit, "ok" if check["ok"] else "[bold red]missed[/]")
    console.print(table)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3f}"


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when a bound is missed."""
    parser = argparse.ArgumentParser(
        prog="nox -s accuracy --",
        description="Measure the load generator's error and cost against a server with a known schedule.",
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the tokens: rough figures in seconds")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON and nothing else")
    options = parser.parse_args(argv)
    if sys.platform != "linux":
        raise UsageError("this needs Linux: the server is built on epoll", hint="run it in a container or on a host")
    console = Console(stderr=True) if options.json else Console()
    figures = measure(console, scale=0.1 if options.quick else 1.0, trials=1 if options.quick else 2)
    if options.json:
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    else:
        print_tables(figures, console)
    return 0 if all(check["ok"] for check in figures["checks"]) else 1


if __name__ == "__main__":
    sys.exit(main())
