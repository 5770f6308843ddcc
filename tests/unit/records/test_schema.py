"""Records of older versions are read as if they had been written today."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nexus_tasks.core.errors import RecordError
from nexus_tasks.records import schema, store
from nexus_tasks.records.benchmark_rows import Lengths, Planned

DATA = Path(__file__).parent / "data"
"""A record of each kind and schema that ever landed, KIND_SCHEMA.jsonl, and of what a schema had in a variant of it."""


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


FIRST = rows_of(DATA / "benchmark_1.jsonl")
FIGURES = FIRST[-1]["metrics"]["ttft_ms"]


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "benchmark" / f"{rows[0]['run_id']}.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_first_benchmark_record_is_one_stage_with_one_user(tmp_path: Path) -> None:
    record = store.load(write(tmp_path, FIRST))
    assert record.header.schema == 2
    assert record.header.load.mode == "closed"
    assert record.header.load.planned == [Planned(concurrency=1, requests=1, warmup=1, ramp_s=0.0)]
    assert record.header.workload.output_tokens == Lengths(kind="fixed", mean=3)
    [request], [sample] = record.requests, record.samples
    assert (request.stage, request.late_ms, request.intended_s) == (0, 0.0, 0.5)
    assert (request.queue_ms, request.tpot_ms, request.cached_tokens) == (10.0, 10.0, 8)
    assert msgspec.to_builtins(sample.gpus) == [
        {"index": 0, "utilization_percent": 50.0, "memory_used_mib": 10.0, "power_w": 80.0, "temperature_c": None,
         "power_limit_w": None, "clock_mhz": None, "throttled": None, "energy_j": None}
    ]  # fmt: skip
    assert record.summary is not None
    assert msgspec.to_builtins(record.summary.metrics) == {"ttft_ms": {**FIGURES, "ci": None}, "prefill_tps": None}
    assert record.summary.valid


def test_reading_an_old_record_leaves_its_file_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, FIRST)
    before = path.read_bytes()
    store.load(path)
    assert path.read_bytes() == before


def test_an_old_record_that_lacks_what_it_should_have_is_named(tmp_path: Path) -> None:
    header = {key: value for key, value in FIRST[0].items() if key != "workload"}
    path = write(tmp_path, [header, *FIRST[1:]])
    with pytest.raises(RecordError, match=f"{path} can't be read as its schema 1: KeyError 'workload'"):
        store.load(path)


def test_there_is_a_record_of_each_kind_and_schema() -> None:
    headers = [rows_of(path)[0] for path in DATA.glob("*.jsonl")]
    landed = {(kind, number) for kind, newest in schema.NEWEST.items() for number in range(1, newest + 1)}
    assert {(header["kind"], header["schema"]) for header in headers} == landed


@pytest.mark.parametrize("path", sorted(DATA.glob("*.jsonl")), ids=lambda path: path.stem)
def test_a_record_of_each_schema_is_read_as_one_of_today(path: Path) -> None:
    header, *rows = rows_of(path)
    kind = header["kind"]
    upgraded, others = schema.upgrade(header, rows)
    assert upgraded["schema"] == schema.NEWEST[kind]
    assert {row["type"] for row in [upgraded, *others]} <= set(schema.ROWS[kind])
    record = store.load(path, kind)
    typed = [schema.row(kind, row) for row in [upgraded, *others]]
    assert (record.header, record.summary) == (typed[0], typed[-1])
    if isinstance(record, store.BenchmarkRecord):
        kept = [*record.requests, *record.samples, *record.stages]
    elif isinstance(record, store.DeploymentRecord):
        kept = [*record.hosts, *record.releases]
    elif isinstance(record, store.PlanRecord):
        kept = [*record.models, *record.curves, *record.plans, *record.hosts, *record.servers]
    elif isinstance(record, store.UsageRecord):
        kept = [*record.rows]
    else:
        kept = [
            *record.endpoints,
            *record.intervals,
            *record.sessions,
            *record.failures,
            *record.servers,
            *record.schemas,
            *record.requests,
            *record.answers,
        ]
    assert len(kept) == len(others) - 1


@pytest.mark.parametrize("path", sorted(DATA.glob("*.jsonl")), ids=lambda path: path.stem)
def test_types_have_every_key_of_the_rows(path: Path) -> None:
    """What a type lacks would be lost without a word when a row is read."""
    header, *rows = rows_of(path)
    upgraded, others = schema.upgrade(header, rows)
    for row in [upgraded, *others]:
        written = msgspec.to_builtins(schema.row(header["kind"], row))
        assert known(written, row) == row


def known(written: Any, row: Any) -> Any:
    """The written row, with the keys that are left out where they are null."""
    if isinstance(row, dict) and isinstance(written, dict):
        return {key: known(written.get(key), value) for key, value in row.items() if key in written or value is None}
    if isinstance(row, list) and isinstance(written, list):
        return [known(one, other) for one, other in zip(written, row, strict=True)]
    return written
