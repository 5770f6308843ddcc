"""Runs that are remembered under a name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nexus_tasks.comparison import baselines, selection
from nexus_tasks.core.errors import RecordError, UsageError
from tests.compare_records import five_runs, run, save


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The results folder of :func:`five_runs`."""
    return five_runs(tmp_path)


def ids(text: str, root: Path) -> list[str]:
    return [record.run_id for record in selection.find(text, root)]


def test_a_baseline_is_found_again(root: Path) -> None:
    baselines.save("v1", selection.find("r1", root), root)
    baselines.save("v2", selection.find("before", root), root)
    assert json.loads((root / "baselines.json").read_text()) == {"v1": "r1", "v2": "r1,r2"}
    assert ids("v1", root) == ["r1"]
    assert ids("v2", root) == ["r1", "r2"]
    baselines.save("v1", selection.find("r5", root)[0], root)
    assert ids("v1", root) == ["r5"]
    assert sorted(path.name for path in root.iterdir()) == ["baselines.json", "benchmark"]


def test_a_baseline_can_be_of_several_targets_with_models_of_their_own(tmp_path: Path) -> None:
    save(tmp_path, run("r1", header={"tag": "t", "target": "x"}),
         run("r2", header={"tag": "t", "target": "y", "model.name": "other"}))  # fmt: skip
    baselines.save("v1", selection.find("t", tmp_path), tmp_path)
    assert ids("v1", tmp_path) == ["r1", "r2"]


def test_baselines_are_readable_for_whoever_reads_the_records(root: Path) -> None:
    baselines.save("v1", selection.find("r1", root), root)
    record = root / "benchmark" / "r1.jsonl"
    assert (root / "baselines.json").stat().st_mode & 0o777 == record.stat().st_mode & 0o777


@pytest.mark.parametrize("name", ["", "last", "last-good", "a,b", " v1", "x.jsonl"])
def test_a_baseline_has_no_name_that_means_something_else(name: str, root: Path) -> None:
    with pytest.raises(UsageError):
        baselines.save(name, selection.find("r1", root), root)


def test_a_bad_run_is_no_baseline(root: Path) -> None:
    with pytest.raises(UsageError) as caught:
        baselines.save("v1", selection.find("r3", root), root)
    assert "1 of 20 requests failed" in caught.value.message
    assert not (root / "baselines.json").exists()


def test_a_baseline_whose_record_is_gone_is_told(root: Path) -> None:
    baselines.save("v1", selection.find("r1", root), root)
    (root / "benchmark" / "r1.jsonl").unlink()
    with pytest.raises(UsageError) as caught:
        selection.find("v1", root)
    assert "r1" in caught.value.message


@pytest.mark.parametrize("text", ["{", "[]", '{"v1": 3}'])
def test_a_damaged_file_of_baselines_is_told(text: str, root: Path) -> None:
    (root / "baselines.json").write_text(text)
    with pytest.raises(RecordError):
        selection.find("v1", root)
