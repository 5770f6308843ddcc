"""Exports hold what the records hold, whatever their format."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nexus_tasks import export
from nexus_tasks.core.errors import RecordError, ReportError
from nexus_tasks.records import store
from nexus_tasks.records.store import Record
from tests import deployment_records
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


def _export(root: Path, to: Path, kind: str) -> dict[str, pd.DataFrame]:
    runs = [path.stem for path in store.paths("benchmark", root)]
    arguments = [*runs, "--format", kind, "--to", str(to), "--results", str(root)]
    assert export.main(arguments) == 0
    read: dict[str, Any] = {"parquet": pd.read_parquet, "csv": pd.read_csv, "json": _from_json}
    return {name: read[kind](to / f"{name}.{kind}") for name in export.TABLES}


def _from_json(path: Path) -> pd.DataFrame:
    return pd.DataFrame(json.loads(path.read_text()))


@pytest.mark.parametrize("kind", export.FORMATS)
def test_a_table_has_a_row_for_each_thing_that_the_records_hold(root: Path, tmp_path: Path, kind: str) -> None:
    tables = _export(root, tmp_path / "out", kind)
    records = [store.load(path) for path in store.paths("benchmark", root)]
    assert tables["runs"]["run_id"].tolist() == [record.run_id for record in records]
    assert len(tables["stages"]) == 2
    assert len(tables["requests"]) == 12
    assert len(tables["samples"]) == sum(len(record.samples) for record in records)
    assert len(tables["gpus"]) == len(records[0].samples)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{name}.{kind}" for name in export.TABLES}
    for name, columns in export.TABLES.items():
        assert list(tables[name].columns) == list(columns)


@pytest.mark.parametrize("kind", export.FORMATS)
def test_numbers_and_texts_arrive_as_they_were(root: Path, tmp_path: Path, kind: str) -> None:
    tables = _export(root, tmp_path, kind)
    record = store.load(store.paths("benchmark", root)[0])
    own = tables["requests"][tables["requests"]["run_id"] == record.run_id]
    for key in ("ttft_ms", "queue_ms", "decode_tps", "start_s"):
        assert own[key].tolist() == [row[key] for row in record.requests], key
    assert own["server_prompt_ms"].tolist() == [row["server"]["prompt_ms"] for row in record.requests]
    stage = tables["stages"].iloc[0]
    assert stage["ttft_ms_median"] == record.stages[0]["metrics"]["ttft_ms"]["median"]
    assert stage["output_tps"] == record.stages[0]["throughput"]["output_tps"]
    other = tables["requests"][tables["requests"]["run_id"] != record.run_id]
    assert other["answer"].iloc[0] == 'He said: "ä,\n1"'
    assert other["error_kind"].iloc[1] == "timeout"
    assert math.isnan(other["ttft_ms"].iloc[1])


def test_each_token_has_the_moment_at_which_it_came(root: Path, tmp_path: Path) -> None:
    tokens = _export(root, tmp_path, "parquet")["tokens"]
    record = store.load(store.paths("benchmark", root)[0])
    row = record.requests[5]
    own = tokens[(tokens["run_id"] == record.run_id) & (tokens["index"] == row["index"])]
    assert own["token"].tolist() == list(range(row["output_tokens"]))
    assert own["t_s"].iloc[0] == pytest.approx(row["intended_s"] + row["ttft_ms"] / 1000)
    assert own["t_s"].iloc[-1] == pytest.approx(row["intended_s"] + (row["ttft_ms"] + row["decode_ms"]) / 1000)
    assert own["gap_ms"].tolist()[1:] == row["itl_ms"]


def test_the_last_run_is_exported_unless_another_is_named(root: Path, tmp_path: Path) -> None:
    assert export.main(["--results", str(root), "--to", str(tmp_path)]) == 0
    assert pd.read_parquet(tmp_path / "runs.parquet")["target"].tolist() == ["gpu1/chat"]


def test_an_unknown_run_is_an_error_and_nothing_is_written(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main(["nosuch", "--results", str(root), "--to", str(tmp_path / "out")]) == 1
    assert "no run, tag or baseline 'nosuch'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_an_error(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert export.main(["--results", str(root), "--to", str(tmp_path / "file" / "out")]) == 1
    assert "cannot write an export to" in capsys.readouterr().err


def test_the_record_of_a_deployment_is_no_run_to_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = deployment_records.write(tmp_path)
    assert export.main([str(path), "--results", str(tmp_path), "--to", str(tmp_path / "out")]) == 1
    assert "is a deployment" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_export_that_is_cut_short_leaves_nothing_half_written(
    root: Path, tmp_path: Path, error: BaseException
) -> None:
    def cut() -> Iterator[Record]:
        yield store.load(store.paths("benchmark", root)[0])
        raise error

    with pytest.raises((ReportError, KeyboardInterrupt)):
        export.write(cut(), "json", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_turns_out_damaged_leaves_the_earlier_export_as_it_was(root: Path, tmp_path: Path) -> None:
    assert export.main(["--results", str(root), "--to", str(tmp_path)]) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text("{}\n")
    good = store.paths("benchmark", root)[0]
    with pytest.raises(RecordError):
        export.write((store.load(path) for path in (good, damaged)), "parquet", tmp_path)
    damaged.unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
