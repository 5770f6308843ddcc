"""Progress of a batch: a bar on a terminal, a line now and then elsewhere, and a line for each event of an endpoint.

with Progress(console, outcome) as progress:
    progress.update(workers)            # several times a second
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from time import perf_counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from nexus_tasks.batches.options import Outcome
from nexus_tasks.batches.worker import Worker

LINE_S = 10.0
"""So often a line tells how far it is where there is no terminal."""
RATE_S = 30.0
"""The rate is that of so many last seconds."""


class Progress:
    """Tells how far a run is.

    Args:
        console: None where nothing is to be told.
    """

    def __init__(self, console: Console | None, outcome: Outcome) -> None:
        self._console, self._outcome = console, outcome
        shown = console is not None and console.is_terminal
        self._bar = Bar(
            BarColumn(bar_width=20), TextColumn("{task.description}"), console=console,
            refresh_per_second=2, transient=True, disable=not shown,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=max(outcome.total, 1))
        self._spoke = perf_counter()
        self._past: deque[tuple[float, int, int]] = deque()  # moment, items done, tokens
        self._problems: dict[str, str | None] = {}

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, workers: Sequence[Worker]) -> None:
        """Take how far it is, and how its endpoints are."""
        if self._console is None:
            return
        now, outcome = perf_counter(), self._outcome
        self._past.append((now, outcome.done, outcome.output_tokens))
        while len(self._past) > 2 and now - self._past[0][0] > RATE_S:
            self._past.popleft()
        for worker in workers:
            self._tell_of(worker, self._console)
        if not self._bar.disable:
            self._bar.update(self._task, completed=outcome.done, description=self._line(workers))
        elif now - self._spoke >= LINE_S:
            self._spoke = now
            self._console.print(self._line(workers), soft_wrap=True, markup=False, highlight=False)

    def _tell_of(self, worker: Worker, console: Console) -> None:
        """Say when an endpoint goes away, and when it is back."""
        problem = None if worker.is_well else worker.problem
        before = self._problems.get(worker.name)
        if problem == before:
            return
        self._problems[worker.name] = problem
        text = f"{worker.name}: {problem}" if problem else f"{worker.name} is back"
        console.print(text, style="yellow" if problem else "green", soft_wrap=True, markup=False, highlight=False)

    def _line(self, workers: Sequence[Worker]) -> str:
        outcome = self._outcome
        (first, done, tokens), (last, done_now, tokens_now) = self._past[0], self._past[-1]
        seconds = max(last - first, 1e-9)
        rate, tps = (done_now - done) / seconds, (tokens_now - tokens) / seconds
        left = (outcome.total - outcome.done) / rate if rate else None
        under_way = sum(len(worker.under_way) for worker in workers)
        well = sum(worker.is_well for worker in workers)
        parts = [
            f"{outcome.done:,} of {outcome.total:,}",
            f"{outcome.set_aside.total():,} set aside" if outcome.set_aside else "",
            f"{outcome.retried.total():,} retried" if outcome.retried else "",
            f"{under_way} under way at {well} of {len(workers)} endpoints",
            f"{rate:,.1f} rows/s",
            f"{tps:,.0f} tokens/s",
            "" if left is None else f"{duration(left)} left",
        ]
        return ", ".join(filter(None, parts))


def duration(seconds: float) -> str:
    """A duration in the two largest of its units: ``3 h 5 min``, ``12 s``."""
    whole = round(seconds)
    for size, unit, smaller, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {name}"
    return f"{whole} s"
