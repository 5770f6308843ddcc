"""The command that exports runs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest

from nexus_tasks import export
from nexus_tasks.records import store
from nexus_tasks.views import tables
from nexus_tasks.views.table_files import FORMATS
from tests import deployment_records
from tests.damaged_records import damage
from tests.report_records import NOON, write


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of two targets."""
    folder = tmp_path_factory.mktemp("results")
    write(folder, NOON)
    write(folder, NOON + timedelta(hours=1), target="gpu1/chat")
    return folder


@pytest.mark.parametrize("kind", FORMATS)
def test_runs_that_are_named_are_exported_in_the_format_that_is_asked_for(
    root: Path, tmp_path: Path, kind: str
) -> None:
    runs = [path.stem for path in store.paths("benchmark", root)]
    assert export.main([*runs, "--format", kind, "--to", str(tmp_path), "--results", str(root)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.{kind}" for name in tables.COLUMNS}
    text = (tmp_path / f"runs.{kind}").read_bytes().decode(errors="replace")
    assert all(run in text for run in runs)


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
    assert "not of a deployment" in capsys.readouterr().err


def test_a_damaged_record_is_named_and_the_last_that_can_be_read_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, newest = [write(tmp_path / "results", NOON + timedelta(hours=hour)) for hour in range(2)]
    damage(newest, "infinity")
    assert export.main(["--results", str(tmp_path / "results"), "--to", str(tmp_path / "out")]) == 0
    assert f"warning: left out: {newest}, line " in capsys.readouterr().err
    assert pd.read_parquet(tmp_path / "out" / "runs.parquet")["run_id"].tolist() == [good.stem]
