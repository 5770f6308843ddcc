"""HTTP engine: measures what servers give their users, under load, and writes the record of the run.

    path = http_engine.run(target, presets.preset("quick"))
    store.load(path).summary.metrics["ttft_ms"].median

What a record holds is in docs/records.md, what the numbers mean in docs/benchmarks.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from nexus_tasks.fleet import locality, targets
from nexus_tasks.fleet.exporters import Exporter
from nexus_tasks.fleet.targets import Target
from nexus_tasks.load import generator
from nexus_tasks.load.requests import Stage
from nexus_tasks.measurement import http_header, progress, sweep
from nexus_tasks.measurement.plan import Plan, at_level
from nexus_tasks.measurement.run_telemetry import RunTelemetry
from nexus_tasks.measurement.tally import Tally
from nexus_tasks.records import store
from nexus_tasks.records.benchmark_rows import Measured, RequestRow, StageRow, Throughput, fields
from nexus_tasks.servers import client, endpoint, route
from nexus_tasks.servers.endpoint import Endpoint
from nexus_tasks.servers.route import Route
from nexus_tasks.stats import stopping, summary
from nexus_tasks.workloads import sources, workload

Exporters = Mapping[str, Exporter]
"""By host."""


def run(
    target: Target,
    plan: Plan,
    *,
    exporters: Exporters | None = None,
    root: Path = store.ROOT,
    console: Console | None = None,
) -> Path:
    """Measure one target and write its record.

    Args:
        exporters: of role telemetry; that of the target's host is sampled beside the run.
        root: the results folder.
        console: where progress is shown; None shows none.

    Returns:
        The record's path. Requests that failed are rows of it, and its summary's ``ok`` is false then.

    Raises:
        EndpointError: the server cannot be measured at all.
        UsageError: the workload does not fit the server.
        RecordError: the record cannot be written.
        KeyboardInterrupt: after the record was finished with ``interrupted`` true.
    """
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(Run.prepare(target, plan, console))
        one.begin(root, exporters or {})
        return _all_of([one])


def run_interleaved(
    pair: Sequence[Target],
    plan: Plan,
    *,
    exporters: Exporters | None = None,
    root: Path = store.ROOT,
    console: Console | None = None,
) -> list[Path]:
    """Measure two targets in turn, round by round, so that what drifts meanwhile is the same for both.

    The order turns over with every round: A B, B A, A B. Raises as :func:`run` does; each has a record of its own.
    """
    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(Run.prepare(target, plan, console)) for target in pair]
        ids = [store.new_run_id(target.name) for target in pair]
        for one, own, other in zip(both, ids, reversed(ids), strict=True):
            one.begin(root, exporters or {}, run_id=own, partner=other)
        _all_of(both)
        return [one.path for one in both]


def _all_of(all_: Sequence[Run]) -> Path:
    """Do all rounds of all runs, and finish the records in any case that leaves one whole."""
    try:
        for number in range(all_[0].plan.rounds):
            for one in all_ if number % 2 == 0 else reversed(all_):
                one.measure(number)
    except KeyboardInterrupt:
        for one in all_:
            one.finish(interrupted=True)
            one.say(f"interrupted; what was measured is in {one.path}")
        raise
    for one in all_:
        one.finish(interrupted=False)
    return all_[0].path


class Run:
    """One target while it is measured: its record, and how far it is. Use :meth:`prepare`."""

    def __init__(
        self,
        target: Target,
        straight: Route,
        server: Endpoint,
        plan: Plan,
        source: sources.Source,
        console: Console | None,
    ) -> None:
        self.target = target
        self.route = straight
        self.server = server
        self.plan = plan
        self.path = Path()
        self._source = source
        self._console = console
        self._stack = contextlib.ExitStack()
        self._tally = Tally(plan.slo)
        self._levels: dict[float, Throughput | None] = {}
        """Throughput by level of a sweep, as its stage has it."""
        self._stage_of: dict[float, int] = {}
        self._stages = 0
        self._requests = 0

    @classmethod
    @contextlib.contextmanager
    def prepare(cls, target: Target, plan: Plan, console: Console | None) -> Iterator[Run]:
        """Look at the server, and refuse what it can't be asked before anything is written."""
        with contextlib.ExitStack() as way:
            reached = way.enter_context(targets.reach(target))
            straight = route.to(reached.base_url).resolved()
            with client.connect(straight, reached.api_key) as connected:
                server = endpoint.probe(connected, model=reached.model, api_path=reached.api_path)
                plan = dataclasses.replace(plan, spec=workload.settle(plan.spec, server))
                source = sources.prepare(connected, server, plan.spec)
            one = cls(reached, straight, server, plan, source, console)
            one.say(f"{target.name}: {server.model} at {target.base_url} ({server.engine})")
            if plan.spec.file and plan.spec.file.repeated:
                file = plan.spec.file
                one.say(
                    f"  {file.path}: {file.repeated} of {len(file.entries)} entries have the id of one before them, "
                    "and are told apart as ID#2, ID#3 and so on"
                )
            with one._stack:
                yield one

    def begin(self, root: Path, exporters: Exporters, *, partner: str | None = None, run_id: str | None = None) -> None:
        """Start the record and the telemetry."""
        exporter = exporters.get(self.target.instance.host) if self.target.instance else None
        local = locality.is_local(self.target, self.server)
        self._telemetry = self._stack.enter_context(
            RunTelemetry(self.target, self.server, local=local, exporter=exporter)
        )
        if exporter and self._telemetry.problem:
            self.say(f"  telemetry of {exporter.host} is missing: {self._telemetry.problem}")
        row = http_header.of_run(
            self.target, self.server, self.plan, self._telemetry.gpus, host_state=self._telemetry.host_state,
            partner=partner,
        )  # fmt: skip
        self.record = self._stack.enter_context(store.create(row, root=root, run_id=run_id))
        self.path = self.record.path
        self._origin = time.perf_counter()
        self._telemetry.begin(self._origin)

    def measure(self, round_: int) -> None:
        """All stages once."""
        if self.plan.sweep is None:
            for stage in self.plan.stages:
                self._measure(stage, round_)
            return
        way, pattern = self.plan.sweep, self.plan.stages[0]
        whole = way.axis == "concurrency"
        next_level = functools.partial(sweep.next_level, first=way.first, max_level=way.max_level, whole=whole)
        while (level := next_level(sweep.throughputs(self._levels, tokens=whole))) is not None:
            figures = self._measure(at_level(pattern, way.axis, level), round_)
            self._levels[level] = figures.throughput
            self._stage_of[level] = self._stages - 1
            if figures.failed == figures.requests:
                return  # nothing is to be learned beyond a server that answers nobody

    def _measure(self, stage: Stage, round_: int) -> Measured:
        """One stage; its figures."""
        lengths = self.plan.spec.lengths
        length = lengths[self._stages % len(lengths)] if lengths else None
        collector = summary.Collector(self.plan.slo)
        until = self.plan.until
        with progress.Ticker(self._console, stage, number=self._stages, of=self._number_of_stages()) as ticker:
            watch = generator.run(
                self.route, self.target.api_key, self._source.items(stage=self._stages, length=length),
                stage, self.plan.limits, index=self._requests, number=self._stages,
                processes=self.plan.processes or 1, origin=self._origin,
                on_rows=functools.partial(self._take, round_, collector, ticker),
                enough=functools.partial(stopping.enough, collector, *until) if until else None,
            )  # fmt: skip
        self._tally.end_stage(watch)
        figures = collector.figures(watch.ended_s - watch.begun_s)
        self.record.append(
            StageRow(
                **fields(figures),
                stage=self._stages,
                round=round_,
                concurrency=stage.concurrency,
                rate_per_s=stage.rate_per_s,
                prompt_tokens=length,
                watch=watch,
            )
        )
        self._stages += 1
        return figures

    def _take(
        self, round_: int, collector: summary.Collector, ticker: progress.Ticker, rows: Sequence[RequestRow]
    ) -> None:
        """Take the rows of requests that ended, and what was sampled meanwhile."""
        for row in rows:
            row.round = round_
            collector.add(row)
            self._tally.add(row)
            self.record.append(row)
            ticker.add(row)
        self._requests += len(rows)
        self._take_samples()

    def finish(self, *, interrupted: bool) -> None:
        """Write the trailer."""
        self._telemetry.stop()
        self._take_samples()
        wall_s = time.perf_counter() - self._origin
        knee = None
        if self.plan.sweep and self._levels:
            rates = sweep.throughputs(self._levels, tokens=self.plan.sweep.axis == "concurrency")
            knee = sweep.knee(rates) if any(rates.values()) else None  # where nothing came there is none
        self.record.finish(
            self._tally.verdict(
                interrupted=interrupted,
                wall_s=wall_s,
                knee=None if knee is None else self._stage_of[knee],
                energy=self._telemetry.energy(self._tally.windows, self._tally.output_tokens),
            )
        )

    def say(self, text: str) -> None:
        """Tell a line, where anybody listens."""
        if self._console:
            self._console.print(text, soft_wrap=True, markup=False, highlight=False)

    def _number_of_stages(self) -> int | None:
        return None if self.plan.sweep else len(self.plan.stages) * self.plan.rounds

    def _take_samples(self) -> None:
        for row in self._telemetry.take():
            self.record.append(row)
