"""Runs with known figures to compare: made of the simulation's, changed where a test needs it, and saved."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from nexus_tasks.comparison import simulation
from nexus_tasks.comparison.simulation import Design, Noise
from nexus_tasks.records import store
from nexus_tasks.records.store import Record
from tests import report_records

QUIET = Noise(drift=0.0, process=0.0, request_gap=0.5, request_ttft=1.0, token=2.0, stalled_percent=0.0)


def run(
    run_id: str,
    *,
    slower: float = 1.0,
    requests: int = 20,
    seed: int | None = None,
    header: Mapping[str, Any] | None = None,
) -> Record:
    """A run on a quiet machine. ``slower``: how many times as long each gap is.

    ``header`` has changes, by name with dots between: ``{"server.build": "b2"}``.
    """
    rng = np.random.default_rng(sum(run_id.encode()) if seed is None else seed)
    (record,), _ = simulation.pair(rng, QUIET, Design(requests=requests))
    for row in record.requests:
        row["itl_ms"] = [gap * slower for gap in row["itl_ms"]]
        row["decode_ms"] *= slower
        row["decode_tps"] /= slower
        row["total_ms"] = row["ttft_ms"] + row["decode_ms"]
    return changed(record, {"run_id": run_id, **(header or {})})


def changed(record: Record, header: Mapping[str, Any], **summary: Any) -> Record:
    """The same run with another header and another summary."""
    new = copy.deepcopy(record.header)
    for name, value in header.items():
        *groups, key = name.split(".")
        part = new
        for group in groups:
            part = part[group]
        part[key] = value
    return dataclasses.replace(record, header=new, summary={**(record.summary or {}), **summary})


def save(root: Path, *records: Record) -> list[Path]:
    """Write runs as the benchmark does, each a minute after the one before."""
    paths = []
    for number, record in enumerate(records):
        header = {key: value for key, value in record.header.items() if key not in ("type", "schema", "kind")}
        for name, part in report_records.HEADER.items():
            header[name] = {**part, **header.get(name, {})} if isinstance(part, dict) else header.get(name, part)
        started = simulation.NOON + timedelta(minutes=number)
        header["started_at"] = started.isoformat(timespec="microseconds")
        with store.create("benchmark", header, target=header["target"], root=root, run_id=record.run_id) as writer:
            for row in record.requests:
                writer.append({**report_records.request(0), **row, "itl_ms": list(row["itl_ms"])})
            for row in (*record.stages, *record.samples):
                writer.append(row)
            if record.summary is not None:
                whole = report_records.summary_of([], [], {})
                writer.finish({**whole, **record.summary})
        paths.append(writer.path)
    return paths


def loaded(root: Path, *records: Record) -> Sequence[Record]:
    """Runs, saved and read back."""
    return [store.load(path) for path in save(root, *records)]
