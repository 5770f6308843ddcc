"""Progress of a benchmark in a terminal, and a summary at its end."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from nexus_tasks.load.requests import Stage
from nexus_tasks.load.rows import uncounted_sentence, untimed_sentence
from nexus_tasks.records import store
from nexus_tasks.records.benchmark_rows import BenchmarkSummary, RequestRow, fields
from nexus_tasks.stats.metrics import ITL, LATE, MAIN, OF_REQUESTS, OUTPUT, REQUESTS, TTFT, TTFT_VISIBLE

LINES_EACH = 20
"""Number of requests up to which each has a line where there is no terminal."""
LINE_SECONDS = 10.0
"""More requests than that share a line each time so much has passed."""
FAILURES_SHOWN = 5
REASONS_SHOWN = 2
AXES = {"concurrency": "in\nflight", "rate_per_s": "offered\nper s", "prompt_tokens": "prompt"}


class Ticker:
    """Tells how far a stage is: a bar on a terminal, lines elsewhere.

    The bar is drawn every second at most: drawing takes milliseconds, which may land in the gaps between tokens.
    """

    def __init__(self, console: Console | None, stage: Stage, *, number: int, of: int | None) -> None:
        self._console = console
        self._stage = stage
        self._label = level(stage)
        if of is None:
            self._label = f"level {number + 1}: {self._label}"
        elif of > 1:
            self._label = f"{number + 1}/{of}: {self._label}"
        shown = console is not None and console.is_terminal
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, refresh_per_second=1, transient=True, disable=not shown)
        total = stage.requests + stage.warmup if stage.requests else stage.duration_s
        self._task = self._bar.add_task(self._label, total=total)
        self._ended = self._failed = self._told = 0
        self._began = self._spoke = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._console and self._bar.disable and self._ended > max(self._told, LINES_EACH):
            self._say_how_far(self._console)

    def add(self, row: RequestRow) -> None:
        """Take a request that ended."""
        self._ended += 1
        self._failed += not row.ok
        done = self._ended if self._stage.requests else time.monotonic() - self._began
        failed = f", {self._failed} failed" if self._failed else ""
        self._bar.update(self._task, completed=done, description=f"{self._label}, {self._ended} ended{failed}")
        if self._console is None or (not self._bar.disable and row.ok):
            return
        few = self._stage.requests is not None and self._stage.requests + self._stage.warmup <= LINES_EACH
        if few or (not row.ok and self._failed <= FAILURES_SHOWN):
            self._told += 1
            self._console.print(f"  {self._label}, {_name(row)}: {_outcome(row)}", soft_wrap=True, markup=False)
        elif self._bar.disable and time.monotonic() - self._spoke > LINE_SECONDS:
            self._say_how_far(self._console)

    def _say_how_far(self, console: Console) -> None:
        self._spoke, self._told = time.monotonic(), self._ended
        of = f" of {self._stage.requests + self._stage.warmup}" if self._stage.requests else ""
        console.print(
            f"  {self._label}: {self._ended}{of} requests, {self._failed} failed, {self._spoke - self._began:.0f} s",
            soft_wrap=True, markup=False,
        )  # fmt: skip


def level(stage: Stage) -> str:
    """The load of a stage in a few words."""
    if stage.mode == "closed":
        return f"{stage.concurrency} at a time"
    bursts = f", {stage.burst} together" if stage.mode == "burst" else ""
    return f"{number(stage.rate_per_s)} requests/s {stage.mode}{bursts}"


def _name(row: RequestRow) -> str:
    return f"{'warm-up' if row.phase == 'warmup' else row.phase} {row.index}"


def _outcome(row: RequestRow) -> str:
    if row.error:
        return f"failed: {row.error.kind}: {row.error.message}"
    if row.ttft_ms is None:
        return f"{number(row.total_ms)} ms"
    return f"TTFT {number(row.ttft_ms)} ms, {number(row.decode_tps)} tokens/s"


# --- afterwards


def print_summary(record: store.BenchmarkRecord, console: Console) -> None:
    """The figures of a finished record, in tables that fit 80 columns."""
    outcome = record.summary
    if outcome is None:
        return
    # Figures of several levels together are those of none.
    if not record.header.load.axis:
        console.print(_metrics(record.header.target, outcome))
    if len(record.stages) > 1 or (record.stages and record.header.load.axis):
        console.print(_stages(record))
    if not record.header.load.axis:
        _print_throughput(record, outcome, console)
    until = record.header.load.until
    if until and any(not row.watch or row.watch.stopped != "enough" for row in record.stages):
        text = f"{until.metric} is not known to {until.percent:g} %: requests or time ran out before"
        console.print(text, style="bold yellow", markup=False)
    for told in filter(None, (uncounted_sentence(record.requests), untimed_sentence(record.requests))):
        console.print(told, style="bold yellow", markup=False, soft_wrap=True)
    if outcome.agreement:
        difference = outcome.agreement.difference_percent
        console.print(f"decode time against the server's own timings: {difference:+.2f} %")
    if outcome.energy:
        console.print(f"energy: {number(outcome.energy.joules_per_token)} J a token")
    if not outcome.valid:
        console.print("NOT VALID: the load generator was part of what was measured", style="bold red")
        for reason in outcome.reasons[:REASONS_SHOWN]:
            console.print(f"  {reason}", markup=False)
        if len(outcome.reasons) > REASONS_SHOWN:
            console.print(f"  and so in {len(outcome.reasons) - REASONS_SHOWN} more stages")
    if stalls := outcome.stalls:
        console.print(f"{stalls} stall{'s' if stalls > 1 else ''} within answers", style="bold yellow")
    if outcome.failed:
        _print_failures(record, outcome, console)
    console.print(f"record: {record.path}", soft_wrap=True, highlight=False)


def _metrics(title: str, outcome: BenchmarkSummary) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    table.add_column("", no_wrap=True)
    for column in ("median", "95 % interval", "p95", "p99", "max", "n"):
        table.add_column(column, justify="right", no_wrap=True)
    for metric in OF_REQUESTS.values():
        figures = outcome.metrics.get(metric.key)
        if figures is None and metric not in MAIN:
            continue
        # Sent on time, or with the first token visible: nothing that the line above does not say.
        if metric is LATE and figures and figures.max < 1:
            continue
        if metric is TTFT_VISIBLE and figures == outcome.metrics.get(TTFT.key):
            continue
        within, known = figures.ci.median if figures and figures.ci else None, fields(figures)
        table.add_row(
            metric.with_unit,
            number(known.get("median")),
            f"{number(within[0])} - {number(within[1])}" if within else "-",
            *(number(known.get(column)) for column in ("p95", "p99", "max", "n")),
        )
    return table


def _stages(record: store.BenchmarkRecord) -> Table:
    """A line for each stage, with what differs between them first."""
    load, knee = record.header.load, record.summary.knee if record.summary else None
    axis = load.axis or ("round" if load.rounds > 1 else "stage")
    table = Table(
        title=record.header.target if load.axis else None, title_justify="left", title_style="bold",
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False,
    )  # fmt: skip
    rates, latencies = (OUTPUT, REQUESTS), (TTFT, ITL)
    headings = (*(rate.unit for rate in rates), *(latency.with_unit for latency in latencies))
    for column in (AXES.get(axis, axis), "requests", "failed", *headings):
        # The unit stands below the name: in one line they are wider than their numbers, and 80 columns are few.
        table.add_column(column.replace(", ", "\n"), justify="right", no_wrap=True)
    table.add_column("")
    for row in sorted(record.stages, key=lambda row: float(getattr(row, axis) or 0.0)):
        figures = [getattr(row.throughput, rate.key, None) for rate in rates]
        figures += [median.median if (median := row.metrics[latency.key]) else None for latency in latencies]
        valid = row.watch is None or row.watch.valid  # llama.cpp's own tools need no load generator
        marks = [*(["knee"] if row.stage == knee else []), *([] if valid else ["invalid"])]
        counts = [str(row.requests), str(row.failed)]
        table.add_row(number(getattr(row, axis)), *counts, *map(number, figures), ", ".join(marks))
    return table


def _print_throughput(record: store.BenchmarkRecord, outcome: BenchmarkSummary, console: Console) -> None:
    rates, good = outcome.throughput, outcome.goodput
    if rates and rates.requests_per_s:
        tokens = f"{number(rates.output_tps)} output tokens/s, " if rates.output_tps else ""
        console.print(f"throughput: {tokens}{number(rates.requests_per_s)} requests/s", highlight=False)
    if good and good.share is not None:
        kept = ", ".join(f"{name} <= {limit:g}" for name, limit in record.header.load.slo.items())
        console.print(
            f"goodput: {number(good.requests_per_s)} requests/s, {good.share:.0%} of the requests ({kept})",
            highlight=False,
            soft_wrap=True,
        )


def _print_failures(record: store.BenchmarkRecord, outcome: BenchmarkSummary, console: Console) -> None:
    console.print(f"{outcome.failed} of {outcome.requests} requests failed", style="bold red")
    failed = [(row.index, row.error) for row in record.requests if row.error]
    for index, error in failed[:FAILURES_SHOWN]:
        console.print(f"  request {index}: {error.kind}: {error.message}", markup=False)
    if len(failed) > FAILURES_SHOWN:
        kinds = [error.kind for _, error in failed]
        totals = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        console.print(f"  in all: {totals}", markup=False)


def number(value: float | None) -> str:
    """Four figures at most, so that columns stay narrow."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.{2 if abs(value) < 100 else 1}f}"
