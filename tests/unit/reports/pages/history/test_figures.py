"""Figures of a target over time, and its table of runs beside them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from nexus_tasks.reports.pages.history import figures, tables
from nexus_tasks.reports.pages.history.past import read
from tests.report_records import NOON, fixed, write

HOUR = timedelta(hours=1)


def test_runs_of_another_workload_have_a_figure_of_their_own(tmp_path: Path) -> None:
    paths = [str(write(tmp_path, NOON + place * HOUR)) for place in range(3)]
    paths += [str(write(tmp_path, NOON + (3 + place) * HOUR, prompt_tokens=fixed(999))) for place in range(2)]
    paths.append(str(write(tmp_path, NOON + 9 * HOUR, plans=[{"concurrency": 2, "requests": 3}])))
    past = read(paths)
    assert past.runs["series"].tolist() == [0, 0, 0, 1, 1, 2]
    assert figures.trends(past).html.count("<svg") == 2
    assert tables.listed(past, 60).html.count("<tr>") == 7
