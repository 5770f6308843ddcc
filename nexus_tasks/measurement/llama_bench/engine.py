"""llama-bench engine: measures a model without its server, by llama.cpp's own tools on the host of an instance.

    asked = tool_plan.plan_for(instance, "llama-bench", 512, 256, 5, [1])
    path = engine.run(instance, asked, root=store.ROOT, console=Console())
    store.load(path).summary.metrics["decode_tps"].median

The record is one of kind ``benchmark``, so that a report can show what serving costs.
"""

from __future__ import annotations

import contextlib
import secrets
import shlex
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from nexus_tasks.core.errors import DeployError
from nexus_tasks.fleet import playbook
from nexus_tasks.fleet.inventory import Instance
from nexus_tasks.measurement.llama_bench import header, parsing, playbooks, rows
from nexus_tasks.measurement.llama_bench.guard import left_as_it_was, warn
from nexus_tasks.measurement.llama_bench.parsing import Sample
from nexus_tasks.measurement.llama_bench.playbooks import Place
from nexus_tasks.measurement.llama_bench.tool_plan import BENCH, ToolPlan
from nexus_tasks.records import store
from nexus_tasks.records.benchmark_rows import BenchmarkHeader, Part, SampleRow
from nexus_tasks.telemetry import sampling

STOPPED = ("stopped", "not deployed")

Row = dict[str, Any]


@dataclass(frozen=True)
class _ToolRun:
    """A tool's run on the host: ``answer`` is what playbooks/raw.yml wrote, ``samples`` are this machine's."""

    started_at: str
    began_at: float  # on time.monotonic
    wall_s: float
    answer: Mapping[str, Any]
    samples: Sequence[SampleRow]
    interrupted: bool


def run(
    instance: Instance,
    asked: ToolPlan,
    *,
    root: Path,
    console: Console,
    tag: str | None = None,
    stop_server: bool = False,
) -> Path:
    """Measure an instance's model with a tool of its release, and write the record.

    Args:
        asked: what :func:`tool_plan.plan_for` makes for the instance.
        root: the results folder.
        stop_server: whether the instance's server is stopped meanwhile; it is started and proven afterwards.

    Raises:
        UsageError: the inventory has no such host.
        DeployError: nothing could be measured, or the server does not come back.
        RecordError: the record cannot be written.
        KeyboardInterrupt: after the tool was ended, the server is back and what was measured is in a record.
    """
    status = playbook.run_on(instance.host, "playbooks/status.yml", console=console, narrate=False)
    if status.status != 0:
        raise DeployError(status.problem(), hint=f"nox -s status -- {instance.host} shows how its servers are")
    stops, beside = _running(status.must_be_read().rows.get(instance.host, []), instance, stop_server=stop_server)
    for warning in asked.warnings:
        warn(console, warning)
    if beside:
        advice = f": --stop-server stops {instance.target} meanwhile" if instance.target in beside else ""
        warn(console, f"{_running_words(beside)} beside {asked.engine}, takes memory and slows it when asked{advice}")
    place = Place(instance.host, instance.name, secrets.token_hex(8), stops)
    with left_as_it_was(place, console):
        ran = _run_tool(place, asked, console)
    lines = ran.answer["lines"]
    repetitions = parsing.bench_samples(lines) if asked.engine == BENCH else parsing.batched_samples(lines, asked)
    failure = None if ran.interrupted else _failure(asked, repetitions, ran.answer)
    if not repetitions:
        if ran.interrupted:
            console.print("interrupted; nothing was measured yet")
            raise KeyboardInterrupt
        raise DeployError(f"{instance.target}: {failure}", hint=_hint(asked, beside))
    about = header.of_run(asked, instance, ran.answer, beside=beside, tag=tag)
    path = _write(about, asked, ran, repetitions, failure, local=instance.here, root=root)
    if ran.interrupted:
        console.print(f"interrupted; what was measured is in {path}", soft_wrap=True, highlight=False)
        raise KeyboardInterrupt
    if failure:
        warn(console, failure)
    return path


def _run_tool(place: Place, asked: ToolPlan, console: Console) -> _ToolRun:
    """Run the tool on its host, and sample this machine meanwhile."""
    interrupted = False
    # The monotonic clock is one for all processes of a machine, and is never set.
    started_at, began_at, origin = store.utc_now(), time.monotonic(), time.perf_counter()
    with sampling.Gpus() as gpus, sampling.Sampler(gpus, origin=origin) as sampler:
        if place.starts:
            playbooks.move("stop", place, console)
        try:
            answer = playbooks.play(place, console, raw_commands=asked.commands)
        except KeyboardInterrupt:
            interrupted = True
            answer = playbooks.end(place, console)
        except DeployError:
            # A job goes on when the way to it is lost: not beside a server that is about to be started.
            with contextlib.suppress(DeployError):
                playbooks.end(place, console)
            raise
        wall_s = time.perf_counter() - origin
        sampler.stop()
        return _ToolRun(
            started_at, began_at, wall_s, answer, msgspec.convert(sampler.take(), list[SampleRow]), interrupted
        )


def _write(
    about: BenchmarkHeader, asked: ToolPlan, ran: _ToolRun, repetitions: Sequence[Sample], failure: str | None, *,
    local: bool, root: Path,
) -> Path:  # fmt: skip
    """Write the record, when all is known: the tools say only at their end what they are and what they measured."""
    with store.create(about, root=root, started_at=ran.started_at) as record:
        after_s = ran.answer["begun_at"] - ran.began_at if local else 0.0  # clocks of two machines differ
        requests, stages = rows.rows_of(asked, repetitions, after_s)
        written: list[Part] = [*requests, *stages, *(ran.samples if local else [])]
        for row in written:
            record.append(row)
        record.finish(
            rows.summary_row(requests, stages, interrupted=ran.interrupted, failure=failure, wall_s=ran.wall_s)
        )
    return record.path


def _running(rows: Iterable[Row], instance: Instance, *, stop_server: bool) -> tuple[bool, list[str]]:
    """The instance's own server is to be stopped or not, and the servers that will run beside the tool."""
    running = {row["name"]: row for row in rows if row["state"] not in STOPPED}
    own = running.get(instance.name)
    stops = stop_server and own is not None
    if stops and own and (own["state"] != "running" or own.get("trouble") or own.get("switching")):
        raise DeployError(
            f"{instance.target} is not stopped for a measurement, it may not come back: "
            f"{own.get('trouble') or own.get('remark') or own['state']}",
            hint=f"nox -s status -- {instance.target}; when it serves, measure again",
        )
    return stops, [f"{instance.host}/{name}" for name in running if not (stops and name == instance.name)]


def _failure(asked: ToolPlan, repetitions: Sequence[Sample], answer: Mapping[str, Any]) -> str | None:
    """The reason that kept the tool from its end; None where it came to it."""
    if status := answer["status"]:
        log = answer["said"]
        why = next((line for line in log if "error" in line.lower()), log[-1] if log else "it gave no reason")
        if -status == signal.SIGKILL:
            why = "it was killed, as the kernel does where memory runs out"
        return f"{asked.engine} failed (exit status {status}): {why}"
    full = [sample for sample in repetitions if sample.phase == "run" and sample.decode_s is not None]
    wanted = asked.repetitions * len(asked.concurrencies)
    return None if len(full) == wanted else f"{asked.engine} measured {len(full)} of {wanted} repetitions"


def _hint(asked: ToolPlan, beside: Sequence[str]) -> str:
    if beside:
        return f"{', '.join(beside)} keeps memory there: measure with --stop-server, or stop what else runs"
    return f"run it on the host to see more: {shlex.join([*asked.commands[0], '-v'])}"


def _running_words(targets: Sequence[str]) -> str:
    return f"{targets[0]} runs" if len(targets) == 1 else f"each of {', '.join(targets)} runs"
