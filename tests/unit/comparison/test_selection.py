"""Which runs a name means."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_tasks.comparison import baselines, selection
from nexus_tasks.core.errors import RecordError, UsageError
from tests.compare_records import five_runs, run, save
from tests.damaged_records import DAMAGES, damage


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The results folder of :func:`five_runs`."""
    return five_runs(tmp_path)


def ids(text: str, root: Path, other: str | None = None) -> list[str]:
    records = selection.find(text, root, other=selection.find(other, root) if other else None)
    return [record.run_id for record in records]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("last", ["r5"]),
        ("before", ["r1", "r2"]),
        ("after", ["r5"]),
        ("r4", ["r4-other"]),
        ("r1,r2", ["r1", "r2"]),
        ("before, r2", ["r1", "r2"]),
    ],
)
def test_runs_are_named_by_tags_and_by_the_beginning_of_their_ids(text: str, meant: list[str], root: Path) -> None:
    assert ids(text, root) == meant


def test_a_run_is_named_by_its_path(root: Path) -> None:
    assert ids(str(root / "benchmark" / "r2.jsonl"), root) == ["r2"]


def test_tags_and_baselines_may_be_names_of_branches(tmp_path: Path) -> None:
    save(tmp_path, run("r1", header={"tag": "feature/x"}), run("r2"))
    assert ids("feature/x", tmp_path) == ["r1"]
    baselines.save("release/1", selection.find("r2", tmp_path), tmp_path)
    assert ids("release/1", tmp_path) == ["r2"]


def test_a_damaged_record_is_left_out_of_the_search_for_the_last_good_one(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / "benchmark" / "r2.jsonl"
    path.write_text(path.read_text() + "{\n")
    assert ids("last-good", root, "last") == ["r1"]
    assert f"warning: left out: {path}, line" in capsys.readouterr().err
    with pytest.raises(RecordError):
        ids("r2", root)


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize(("name", "meant"), [("last", ["r4-other"]), ("before", ["r1"])])
def test_of_records_that_nobody_named_the_damaged_ones_are_left_out_by_name(
    root: Path, name: str, meant: list[str], how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [root / "benchmark" / f"{run_id}.jsonl" for run_id in ("r2", "r5")]
    for path in paths:
        damage(path, how)
    assert ids(name, root) == meant
    warned = capsys.readouterr().err
    assert any(f"warning: left out: {path}" in warned for path in paths)


def test_where_no_record_can_be_read_the_last_is_none(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (root / "benchmark").glob("*.jsonl"):
        damage(path, "half a row")
    with pytest.raises(RecordError, match=r"none of 5 records in .* can be read"):
        ids("last", root)
    with pytest.raises(RecordError, match=r"none of 2 records in .* can be read"):
        ids("before", root)


def test_the_last_good_run_is_one_that_can_be_compared(root: Path) -> None:
    assert ids("last-good", root, "last") == ["r2"]  # r3 failed, r4 is another target's
    assert ids("last-good", root, "r2") == ["r1"]
    with pytest.raises(UsageError):
        ids("last-good", root, "r1")
    with pytest.raises(UsageError):
        ids("last-good", root)


def test_a_whole_run_id_is_itself_although_others_begin_like_it(tmp_path: Path) -> None:
    save(tmp_path, run("run"), run("run-2"))
    assert ids("run", tmp_path) == ["run"]


@pytest.mark.parametrize(
    ("text", "said"), [("r", "5 runs begin with 'r'"), ("x", "no run, tag or baseline 'x'"), (",", "empty")]
)
def test_a_name_of_no_run_or_of_several_is_refused(text: str, said: str, root: Path) -> None:
    with pytest.raises(UsageError) as caught:
        selection.find(text, root)
    assert said in caught.value.message
