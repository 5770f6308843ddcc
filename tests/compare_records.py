"""Runs with known figures to compare: made of the simulation's, changed where a test needs it, and saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from nexus_tasks.comparison import simulation
from nexus_tasks.comparison.simulation import Design, Noise
from nexus_tasks.comparison.verdicts import Comparison, Finding
from nexus_tasks.records import store
from nexus_tasks.records.store import BenchmarkRecord
from tests import report_records

QUIET = Noise(drift=0.0, process=0.0, request_gap=0.5, request_ttft=1.0, token=2.0, stalled_percent=0.0)


def run(
    run_id: str,
    *,
    slower: float = 1.0,
    requests: int = 20,
    seed: int | None = None,
    header: Mapping[str, Any] | None = None,
) -> BenchmarkRecord:
    """A run on a quiet machine. ``slower``: how many times as long each gap is.

    ``header`` has changes, by name with dots between: ``{"server.build": "b2"}``.
    """
    rng = np.random.default_rng(sum(run_id.encode()) if seed is None else seed)
    (record,), _ = simulation.pair(rng, QUIET, Design(requests=requests))
    for row in record.requests:
        row.itl_ms = [gap * slower for gap in row.itl_ms]
        row.decode_ms = (row.decode_ms or 0.0) * slower
        row.decode_tps = (row.decode_tps or 0.0) / slower
        row.total_ms = (row.ttft_ms or 0.0) + row.decode_ms
    return changed(record, {"run_id": run_id, **(header or {})})


def changed(record: BenchmarkRecord, header: Mapping[str, Any], **summary: Any) -> BenchmarkRecord:
    """The same run with another header and another summary."""
    new = msgspec.to_builtins(record.header)
    for name, value in header.items():
        *groups, key = name.split(".")
        part = new
        for group in groups:
            part = part[group]
        part[key] = value
    told = msgspec.to_builtins(record.summary) if record.summary else {}
    return dataclasses.replace(
        record, header=report_records.typed(new), summary=report_records.typed({**told, **summary}) if told else None
    )


def save(root: Path, *records: BenchmarkRecord) -> list[Path]:
    """Write runs as the benchmark does, each a minute after the one before."""
    paths = []
    for number, record in enumerate(records):
        started = simulation.NOON + timedelta(minutes=number)
        when = started.isoformat(timespec="microseconds")
        with store.create(record.header, root=root, run_id=record.run_id, started_at=when) as writer:
            for row in (*record.requests, *record.stages, *record.samples):
                writer.append(row)
            if record.summary is not None:
                writer.finish(record.summary)
        paths.append(writer.path)
    return paths


def loaded(root: Path, *records: BenchmarkRecord) -> Sequence[BenchmarkRecord]:
    """Runs, saved and read back."""
    return [store.load(path) for path in save(root, *records)]


def five_runs(root: Path) -> Path:
    """Five runs, a minute after one another: two tagged before, a bad one, and one of another target."""
    save(
        root,
        run("r1", header={"tag": "before"}),
        run("r2", header={"tag": "before"}),
        changed(run("r3-bad"), {}, ok=False, failed=1),
        run("r4-other", header={"target": "other"}),
        run("r5", header={"tag": "after"}),
    )
    return root


def levels(record: BenchmarkRecord, speeds: dict[int, float], count: int) -> BenchmarkRecord:
    """A run at several concurrencies, each so many times as slow."""
    rows, stages = [], []
    for number, (concurrency, slower) in enumerate(speeds.items()):
        part = run(f"{record.run_id}{concurrency}", slower=slower, requests=count)
        rows += [msgspec.structs.replace(row, stage=number) for row in part.requests]
        stages.append(report_records.typed({
            "type": "stage", "stage": number, "round": 0, "concurrency": concurrency, "rate_per_s": None,
            "prompt_tokens": 512, "watch": None, **report_records.figures([], 1.0, {}),
            "throughput": {"output_tps": 95.0 * concurrency / slower, "prompt_tps": None, "total_tps": None,
                           "requests_per_s": None},
        }))  # fmt: skip
    planned = [{"concurrency": concurrency} for concurrency in speeds]
    return changed(
        dataclasses.replace(record, requests=rows, stages=stages), {"load.planned": planned, "load.axis": "concurrency"}
    )


def finding(found: Comparison, name: str, level: str | None = None) -> Finding:
    (one,) = [one for one in found.findings if one.name == name and level in (None, one.level)]
    return one


def names(found: Comparison) -> set[str]:
    return {one.name for one in found.findings}


def width(found: Comparison) -> float:
    decode = finding(found, "decode_tps")
    assert decode.low is not None
    assert decode.high is not None
    return decode.high - decode.low
