"""Figures of a sweep's page."""

from __future__ import annotations

import re

from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import level_figures, waiting
from nexus_tasks.reports.pages.sweep import figures
from tests.report_pages import check_ids


def test_a_sweep_marks_the_knee_the_slots_and_the_slos(sweep: BenchmarkRecord) -> None:
    levels, against = level_figures.by_level(sweep).html, figures.against_latency(sweep).html
    assert re.search(r">knee: \d+ at 4</text>", levels)
    assert ">4 slots; beyond, requests wait</text>" in levels
    for figure in (levels, against):
        assert ">SLO 300 ms</text>" in figure
        assert ">SLO 20 ms</text>" in figure
    assert "the knee is at concurrency 4" in against
    assert "Purple diamonds are levels beyond the server's slots" in against.replace("&#39;", "'")


def test_figures_of_the_page_share_no_ids(sweep: BenchmarkRecord) -> None:
    parts = [level_figures.by_level(sweep), figures.against_latency(sweep), waiting.before_first_token(sweep)]
    check_ids("".join(part.html for part in parts))
