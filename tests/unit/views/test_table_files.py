"""Files of tables hold what the records hold, whatever their format."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nexus_tasks.core.errors import RecordError, ReportError
from nexus_tasks.records import store
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.views import table_files, tables
from tests.report_records import NOON, failure, fixed, request, simulate, write


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: a simulated one, and one with a failure and an answer with everything that CSV must quote."""
    folder = tmp_path_factory.mktemp("results")
    made = simulate([{"concurrency": 2, "requests": 8, "warmup": 2}], output_tokens=16)
    write(folder, NOON, **made, prompt_tokens=fixed(512), output_tokens=fixed(16))
    rows = [request(1, answer='He said: "ä,\n1"'), failure(2, "timeout", "no token")]
    write(folder, NOON + timedelta(hours=1), requests=rows, target="gpu1/chat")
    return folder


def _written(root: Path, to: Path, kind: str) -> dict[str, pd.DataFrame]:
    table_files.write(map(store.load, store.paths("benchmark", root)), kind, to)
    read: dict[str, Any] = {"parquet": pd.read_parquet, "csv": pd.read_csv, "json": _from_json}
    return {name: read[kind](to / f"{name}.{kind}") for name in tables.COLUMNS}


def _from_json(path: Path) -> pd.DataFrame:
    return pd.DataFrame(json.loads(path.read_text()))


@pytest.mark.parametrize("kind", table_files.FORMATS)
def test_a_table_has_a_row_for_each_thing_that_the_records_hold(root: Path, tmp_path: Path, kind: str) -> None:
    read = _written(root, tmp_path / "out", kind)
    records = [store.load(path) for path in store.paths("benchmark", root)]
    assert read["runs"]["run_id"].tolist() == [record.run_id for record in records]
    assert len(read["stages"]) == 2
    assert len(read["requests"]) == 12
    assert len(read["samples"]) == sum(len(record.samples) for record in records)
    assert len(read["gpus"]) == len(records[0].samples)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{name}.{kind}" for name in tables.COLUMNS}
    for name, columns in tables.COLUMNS.items():
        assert list(read[name].columns) == list(columns)


@pytest.mark.parametrize("kind", table_files.FORMATS)
def test_numbers_and_texts_arrive_as_they_were(root: Path, tmp_path: Path, kind: str) -> None:
    read = _written(root, tmp_path, kind)
    record = store.load(store.paths("benchmark", root)[0])
    own = read["requests"][read["requests"]["run_id"] == record.run_id]
    for key in ("ttft_ms", "queue_ms", "decode_tps", "start_s"):
        assert own[key].tolist() == [getattr(row, key) for row in record.requests], key
    assert own["server_prompt_ms"].tolist() == [row.server and row.server.prompt_ms for row in record.requests]
    stage = read["stages"].iloc[0]
    figures, throughput = record.stages[0].metrics["ttft_ms"], record.stages[0].throughput
    assert figures is not None
    assert throughput is not None
    assert stage["ttft_ms_median"] == figures.median
    assert stage["output_tps"] == throughput.output_tps
    other = read["requests"][read["requests"]["run_id"] != record.run_id]
    assert other["answer"].iloc[0] == 'He said: "ä,\n1"'
    assert other["error_kind"].iloc[1] == "timeout"
    assert math.isnan(other["ttft_ms"].iloc[1])


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_export_that_is_cut_short_leaves_nothing_half_written(
    root: Path, tmp_path: Path, error: BaseException
) -> None:
    def cut() -> Iterator[BenchmarkRecord]:
        yield store.load(store.paths("benchmark", root)[0])
        raise error

    with pytest.raises((ReportError, KeyboardInterrupt)):
        table_files.write(cut(), "json", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_turns_out_damaged_leaves_the_earlier_export_as_it_was(root: Path, tmp_path: Path) -> None:
    good = store.paths("benchmark", root)[0]
    table_files.write([store.load(good)], "parquet", tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text("{}\n")
    with pytest.raises(RecordError):
        table_files.write((store.load(path) for path in (good, damaged)), "parquet", tmp_path)
    damaged.unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
