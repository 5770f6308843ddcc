"""Measure what servers give their users: time to first token, gaps between tokens, tokens per second, under load.

    path = measure.run(target, measure.PRESETS["quick"])
    results.load(path).summary["metrics"]["ttft_ms"]["median"]

``nox -s benchmark`` is the command, in benchmark.py.

What a record holds is in docs/records.md, what the numbers mean in docs/benchmarks.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console

from nexus_tasks.core import provenance
from nexus_tasks.core.errors import EndpointDown, UsageError
from nexus_tasks.fleet import targets
from nexus_tasks.fleet.targets import Target
from nexus_tasks.load import generator
from nexus_tasks.load.health import Watch
from nexus_tasks.load.requests import Limits, Stage
from nexus_tasks.measurement import progress, sweep
from nexus_tasks.records import store
from nexus_tasks.servers import endpoint, scrape
from nexus_tasks.servers.endpoint import Endpoint
from nexus_tasks.stats import stopping, summary
from nexus_tasks.telemetry import energy, sampling
from nexus_tasks.workloads import workload  # fmt: skip
from nexus_tasks.workloads.workload import Spec

Exporters = Mapping[str, scrape.Exporter]
"""By host."""

KIND = "benchmark"
SWEEP_REQUESTS = 4
"""Requests of each user at a level of a sweep, unless told otherwise."""
HOST_STATE = ("driver", "power_limit_w", "clocks_max_mhz", "governor")
MASK = "***"

Row = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """Levels that are found as it goes: ``axis`` is concurrency or rate_per_s, ``first`` and ``most`` bound it."""

    axis: str
    first: float
    most: float


@dataclass(frozen=True)
class Plan:
    """What is asked of a server, and how. Lengths in tokens.

    ``stages`` are the levels of load, one after another; a sweep has one, which is the pattern of all. ``axis`` says
    what differs between them. ``until`` ends a stage when the 95 % interval of a metric's median is within so many per
    cent of it. ``rounds`` is for interleaved runs.
    """

    spec: Spec
    stages: tuple[Stage, ...]
    axis: str | None = None
    sweep: Sweep | None = None
    limits: Limits = field(default_factory=Limits)
    slo: Mapping[str, float] = field(default_factory=dict)
    until: tuple[str, float] | None = None
    processes: int | None = None
    rounds: int = 1
    tag: str | None = None

    @property
    def requests(self) -> int:
        """Those that count, of the first stage; 1 where a duration bounds it."""
        return self.stages[0].requests or 1


def _preset(name: str, prompt_tokens: int, output_tokens: int, *, runs: int, warmup: int) -> Plan:
    spec = Spec(prompt_tokens=workload.fixed(prompt_tokens), output_tokens=workload.fixed(output_tokens), preset=name)
    return Plan(spec, (Stage("closed", concurrency=1, requests=runs, warmup=warmup),))


PRESETS = {
    "quick": _preset("quick", 128, 64, runs=3, warmup=1),
    "standard": _preset("standard", 512, 256, runs=10, warmup=1),
    "long-context": _preset("long-context", 2048, 512, runs=3, warmup=1),
    "max-speed": _preset("max-speed", 64, 128, runs=5, warmup=2),
}
DEFAULT_PRESET = "standard"


def preset(name: str) -> Plan:
    """The plan of a preset.

    Raises:
        UsageError: there is no such preset.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise UsageError(f"unknown preset {name!r}", hint=f"the presets are {', '.join(PRESETS)}") from None


# --- a run


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
        one = stack.enter_context(_Run.prepare(target, plan, console))
        one.begin(root, exporters or {})
        return _all_of(stack, [one])


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
        both = [stack.enter_context(_Run.prepare(target, plan, console)) for target in pair]
        ids = [store.new_run_id(target.name) for target in pair]
        for one, own, other in zip(both, ids, reversed(ids), strict=True):
            one.begin(root, exporters or {}, run_id=own, partner=other)
        _all_of(stack, both)
        return [one.path for one in both]


def _all_of(stack: contextlib.ExitStack, all_: Sequence[_Run]) -> Path:
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


class _Run:
    """One target while it is measured: its record, and what became of it so far."""

    def __init__(
        self, target: Target, found: Endpoint, plan: Plan, source: workload.Source, console: Console | None
    ) -> None:
        self.target = target
        self.found = found
        self.plan = plan
        self._source = source
        self._console = console
        self._stack = contextlib.ExitStack()
        self._all = summary.Collector(plan.slo)
        self._agreement = _Agreement()
        self._watches: list[Watch] = []
        self._window: tuple[float, float] | None = None  # what counts so far of the stage under way
        self._levels: dict[float, float] = {}
        self._stage_of: dict[float, int] = {}
        self._stages = 0
        self._requests = 0
        self._samples: list[Row] = []
        self.path = Path()

    @classmethod
    @contextlib.contextmanager
    def prepare(cls, target: Target, plan: Plan, console: Console | None) -> Iterator[_Run]:
        """Look at the server, and refuse what it can't be asked before anything is written."""
        with contextlib.ExitStack() as way:
            reached = way.enter_context(targets.reach(target))
            with endpoint.connect(reached.base_url, reached.api_key) as client:
                found = endpoint.probe(client, model=reached.model, api_path=reached.api_path)
                plan = dataclasses.replace(plan, spec=workload.settle(plan.spec, found))
                source = workload.prepare(client, found, plan.spec)
            one = cls(reached, found, plan, source, console)
            one.say(f"{target.name}: {found.model} at {target.base_url} ({found.engine})")
            with one._stack:
                yield one

    def begin(self, root: Path, exporters: Exporters, *, partner: str | None = None, run_id: str | None = None) -> None:
        """Start the record and the telemetry."""
        exporter = exporters.get(self.target.instance.host) if self.target.instance else None
        self._local = is_local(self.target, self.found)
        gpus = self._stack.enter_context(sampling.Gpus())
        sources = []
        if self.found.engine == endpoint.LLAMA_CPP:
            sources.append(scrape.Source(self.target.name, self.target.base_url, self.target.api_key))
        state = sampling.host_state(gpus) if self._local else dict.fromkeys(HOST_STATE)
        if exporter and not self._local:
            try:
                way = self._stack.enter_context(exporter.reach())
                sources.append(scrape.Source(exporter.host, way, wants=scrape.Machine))
                look = sources[-1].look()
                state, problem = look.machine.host_state() if look.machine else state, look.problem
            except EndpointDown as error:
                problem = error.message
            if problem:
                self.say(f"  telemetry of {exporter.host} is missing: {problem}")
        for source in sources:
            self._stack.enter_context(source)
        row = header(self.target, self.found, self.plan, gpus, host_state=state, partner=partner)
        self.record = self._stack.enter_context(
            store.create(KIND, row, target=self.target.name, root=root, run_id=run_id)
        )
        self.path = self.record.path
        self._origin = time.perf_counter()
        self._sampler = self._stack.enter_context(sampling.Sampler(gpus, origin=self._origin, sources=sources))

    def measure(self, round_: int) -> None:
        """All stages once."""
        if self.plan.sweep is None:
            for stage in self.plan.stages:
                self._measure(stage, round_)
            return
        way, pattern = self.plan.sweep, self.plan.stages[0]
        whole = way.axis == "concurrency"
        while (level := sweep.next_level(self._levels, first=way.first, most=way.most, whole=whole)) is not None:
            figures = self._measure(_at_level(pattern, way.axis, level), round_)
            self._levels[level] = figures["throughput"]["output_tps" if whole else "requests_per_s"] or 0.0
            self._stage_of[level] = self._stages - 1
            if figures["failed"] == figures["requests"]:
                return  # nothing is to be learned beyond a server that answers nobody

    def _measure(self, stage: Stage, round_: int) -> Row:
        lengths = self.plan.spec.lengths
        length = lengths[self._stages % len(lengths)] if lengths else None
        items = self._source.items(stage=self._stages, length=length)
        collector = summary.Collector(self.plan.slo)
        ticker = progress.Ticker(self._console, stage, number=self._stages, of=self._number_of_stages())

        def take(rows: Sequence[Row]) -> None:
            for row in rows:
                row |= {"round": round_}
                self._hide(row)
                collector.add(row)
                self._all.add(row)
                self._agreement.add(row)
                if row["phase"] == "run":
                    begun, ended = row["intended_s"], row["intended_s"] + row["total_ms"] / 1000
                    first, last = self._window or (begun, ended)
                    self._window = min(first, begun), max(last, ended)
                self.record.append(row)
                ticker.add(row)
            self._requests += len(rows)
            self._take_samples()

        until = self.plan.until
        enough = functools.partial(stopping.enough, collector, *until) if until else None
        with ticker:
            watch = generator.run(
                self.target.base_url, self.target.api_key, items, stage, self.plan.limits, index=self._requests,
                number=self._stages, processes=self.plan.processes or 1, origin=self._origin, on_rows=take,
                enough=enough,
            )  # fmt: skip
        self._watches.append(watch)
        self._window = None
        figures = collector.figures(watch.ended_s - watch.begun_s)
        row = {
            "type": "stage",
            "stage": self._stages,
            "round": round_,
            "concurrency": stage.concurrency,
            "rate_per_s": stage.rate_per_s,
            "prompt_tokens": length,
            "watch": watch.as_row(),
            **figures,
        }
        self.record.append(row)
        self._stages += 1
        return figures

    def finish(self, *, interrupted: bool) -> None:
        """Write the trailer."""
        self._sampler.stop()
        self._take_samples()
        wall_s = time.perf_counter() - self._origin
        windows = [(watch.begun_s, watch.ended_s) for watch in self._watches]
        windows += [self._window] if self._window else []
        counted_s = sum(ended - begun for begun, ended in windows)
        figures = self._all.figures(counted_s)
        reasons = list(dict.fromkeys(reason for watch in self._watches for reason in watch.reasons))
        complete = bool(self._all.counted) and not figures["failed"]
        best = sweep.knee(self._levels) if self._levels else None
        self.record.finish(
            {
                "ok": complete and not interrupted,
                "valid": not reasons,
                "reasons": reasons,
                "interrupted": interrupted,
                "stopped": next((w.stopped for w in self._watches if w.stopped not in (None, "enough")), None),
                **figures,
                "wall_s": round(wall_s, 3),
                "knee": None if best is None else self._stage_of[best],
                "agreement": self._agreement.as_row(),
                "energy": self._energy(windows, (figures["throughput"]["output_tps"] or 0.0) * counted_s),
            }
        )

    def say(self, text: str) -> None:
        """Tell a line, where anybody listens."""
        if self._console:
            self._console.print(text, soft_wrap=True, markup=False, highlight=False)

    def _number_of_stages(self) -> int | None:
        return None if self.plan.sweep else len(self.plan.stages) * self.plan.rounds

    def _energy(self, windows: Sequence[tuple[float, float]], tokens: float) -> Row | None:
        if not self._local:  # the GPUs of this machine had no part in it
            samples = [row for row in self._samples if row["source"] != sampling.CLIENT]
        else:
            samples = self._samples
        found = [energy.energy(samples, begun_s, ended_s) for begun_s, ended_s in windows]
        known = [one for one in found if one is not None]
        if not known or len(known) < len(found):
            return None
        joules = sum(one["joules"] for one in known)
        return {
            "joules": joules, "joules_per_token": joules / tokens if tokens else None, "source": known[0]["source"],
        }  # fmt: skip

    def _take_samples(self) -> None:
        for row in self._sampler.take():
            self._samples.append(row)
            self.record.append(row)

    def _hide(self, row: Row) -> None:
        """Mask the key in what a server said about a failure: some repeat it."""
        if self.target.api_key and row["error"]:
            row["error"]["message"] = row["error"]["message"].replace(self.target.api_key, MASK)


def _at_level(pattern: Stage, axis: str, level: float) -> Stage:
    if axis == "rate_per_s":
        return dataclasses.replace(pattern, rate_per_s=level)
    users = int(level)
    requests = None if pattern.duration_s else (pattern.requests or SWEEP_REQUESTS) * users
    # The first wave finds the server empty: it doesn't count.
    return dataclasses.replace(pattern, concurrency=users, requests=requests, warmup=max(pattern.warmup, users))


class _Agreement:
    """How far the client's decode time is from the server's own, over all counted requests that have both."""

    def __init__(self) -> None:
        self._client_ms = self._server_ms = 0.0

    def add(self, row: Row) -> None:
        server_ms = (row["server"] or {}).get("predicted_ms")
        if row["ok"] and row["phase"] == "run" and row["decode_ms"] is not None and server_ms:
            self._client_ms += row["decode_ms"]
            self._server_ms += server_ms

    def as_row(self) -> Row | None:
        if not self._server_ms:
            return None
        return {
            "client_decode_ms": round(self._client_ms, 3),
            "server_decode_ms": round(self._server_ms, 3),
            "difference_percent": (self._client_ms - self._server_ms) / self._server_ms * 100,
        }


def header(
    target: Target,
    found: Endpoint,
    plan: Plan,
    gpus: sampling.Gpus,
    *,
    host_state: Mapping[str, Any],
    partner: str | None = None,
) -> Row:
    """What a record says about the run, besides what every record says."""
    instance = target.instance
    model: Mapping[str, Any] = (instance.model if instance else None) or {}
    model_path = _model_path(target, found)
    local = is_local(target, found)
    size = model.get("size_bytes")
    if size is None and local and model_path:
        with contextlib.suppress(OSError):
            size = Path(model_path).stat().st_size
    return {
        "target": target.name,
        "tag": plan.tag,
        "endpoint": {
            # What the way there looks like at its end: a tunnel's port here is another one each time.
            "base_url": instance.base_url if instance else found.base_url,
            "host": instance.host if instance else None,
            "instance": instance.name if instance else None,
            "engine": found.engine,
            "model": found.model,
            "tunnel": {"via": "ssh", "host": target.tunnel} if target.tunnel else None,
            "preset": target.external,
        },
        "model": {
            "name": model.get("name"),
            "path": model_path,
            "size_bytes": size,
            "sha256": model.get("sha256"),
            "n_params": found.n_params,
            "n_ctx_train": found.n_ctx_train,
        },
        "server": {
            "build": found.build,
            "release": instance.release.get("name") if instance else None,
            "argv": _without_keys(instance.argv, target.api_key) if instance else None,
            "argv_sha256": instance.argv_sha256 if instance else None,
            "n_ctx": found.n_ctx,
            "total_slots": found.total_slots,
        },
        "client": {**provenance.client(), "local": local},
        "gpus": gpus.as_rows(),
        "nvml_error": gpus.nvml_error,
        "host_state": dict(host_state),
        "git": provenance.git(),
        "workload": plan.spec.as_row(),
        "load": _load_row(plan, partner),
    }


def _load_row(plan: Plan, partner: str | None) -> Row:
    keys = ("concurrency", "rate_per_s", "burst", "requests", "duration_s", "ramp_s", "warmup")
    planned = [{key: getattr(stage, key) for key in keys} for stage in plan.stages]
    if plan.spec.lengths:
        planned = [{**row, "prompt_tokens": n} for row, n in zip(planned, plan.spec.lengths, strict=True)]
    return {
        "engine": "http",
        "mode": "sweep" if plan.sweep else plan.stages[0].mode,
        "axis": plan.axis,
        "planned": planned,
        "until": {"metric": plan.until[0], "percent": plan.until[1]} if plan.until else None,
        "slo": dict(plan.slo),
        "limits": {key: getattr(plan.limits, key) for key in ("token_s", "request_s", "max_error_rate")},
        "processes": plan.processes or 1,
        "rounds": plan.rounds,
        "commands": None,
        "servers_beside": None,
        "interleaved_with": partner,
    }


def is_local(target: Target, found: Endpoint) -> bool:
    """Whether the server runs on this machine, so that its load is in the telemetry."""
    if target.tunnel:
        return False
    host = httpx.URL(found.base_url).host
    own = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    if not all(endpoint.is_loopback(a) or a in own for a in addresses):
        return False
    # A tunnel of somebody else's ends on this machine as well, but then the model's file is elsewhere.
    path = _model_path(target, found)
    return path is None or os.path.exists(path)  # noqa: PTH110 - Path.exists raises for what it may not see


def _model_path(target: Target, found: Endpoint) -> str | None:
    model: Mapping[str, Any] = (target.instance.model if target.instance else None) or {}
    return model.get("path") or found.model_path


def _without_keys(argv: Sequence[str], api_key: str | None) -> list[str]:
    """An argv fit for a record: a key that somebody put there in spite of --api-key-file is masked."""
    masked = [
        MASK if before == "--api-key" else re.sub(r"(?<=^--api-key=).*", MASK, word)
        for before, word in zip(["", *argv], argv, strict=False)
    ]
    return [word.replace(api_key, MASK) for word in masked] if api_key else masked
