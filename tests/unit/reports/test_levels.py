"""Levels of load and their table."""

from __future__ import annotations

import re
from pathlib import Path

from nexus_tasks.records import store
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import frames, level_figures, levels
from tests.report_pages import sweep_run
from tests.report_records import write


def test_the_table_of_levels_names_the_knee_and_what_is_not_valid(sweep: BenchmarkRecord) -> None:
    rows = re.findall(r"<tr>(.*?)</tr>", levels.listed(sweep).html, re.DOTALL)[1:]
    assert [("the knee" in row, "not valid" in row) for row in rows] == [
        (False, False), (False, False), (True, False), (False, False), (False, True),
    ]  # fmt: skip


def test_one_level_needs_no_figure_of_levels(tmp_path: Path) -> None:
    record = store.load(write(tmp_path))
    assert level_figures.by_level(record).html == levels.listed(record).html == ""


def test_a_sweep_whose_knee_is_not_on_record_has_it_where_5_percent_are_left(tmp_path: Path) -> None:
    record = sweep_run(tmp_path)
    stages = frames.stages(record)
    knee = levels.knee_of(record, stages)
    assert knee
    assert knee["output_tps"] >= 0.95 * stages["output_tps"].max()
    assert (stages[stages["level"] < knee["level"]]["output_tps"] < 0.95 * stages["output_tps"].max()).all()
