"""Figures of a benchmark's page."""

from __future__ import annotations

import re
from collections import Counter
from datetime import timedelta
from pathlib import Path

from nexus_tasks.core import text
from nexus_tasks.records import store
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import earlier_runs, frames, timeline
from nexus_tasks.reports.pages.benchmark import figures
from tests.report_records import NOON, request, sample, write


def test_a_figure_names_its_colours_and_says_what_it_shows(record: BenchmarkRecord) -> None:
    html = figures.breakdown(record).html
    assert "var(--orange, " in html
    assert not re.search(r"(?<!, )#[0-9a-f]{6}", html), "a colour that the page can't change"
    assert re.search(r'<svg role="img" aria-label="Bars of 4 requests\. A median one took \d+\sms', html)


def test_figures_of_one_page_share_no_ids(tmp_path: Path) -> None:
    gpus = [{"index": 0, "utilization_percent": 50.0, "memory_used_mib": 1024.0, "power_w": 300.0}]
    hot = [{**gpus[0], "utilization_percent": 98.0, "power_w": 350.0}]
    write(tmp_path, NOON - timedelta(hours=1))
    record = store.load(write(tmp_path, samples=[sample(0.0, gpus), sample(0.5, hot)]))
    page = "".join(
        figure.html
        for figure in (
            figures.latencies(record),
            figures.breakdown(record),
            timeline.over_time(record),
            figures.agreement(record, 2.0),
            earlier_runs.trends(frames.history(record, tmp_path)),
        )
    )
    ids = Counter(re.findall(r' id="([^"]+)"', page))
    assert max(ids.values()) == 1
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)
    assert "GPU load, %" in page
    assert "GPU power, W" in page
    assert "Hardly moved: processor 90.0" in page


def test_few_points_are_drawn_themselves_and_many_as_a_histogram(tmp_path: Path) -> None:
    few = figures.latencies(store.load(write(tmp_path, requests=[request(1)]))).html
    assert "request, in order" in few
    many = figures.latencies(store.load(write(tmp_path, requests=[request(i) for i in range(1, 30)]))).html
    assert many.count("count</text>") == 2
    assert "p99" in many


def test_tokens_that_came_in_one_event_do_not_break_a_logarithmic_axis(tmp_path: Path) -> None:
    gaps = [0.0] * 5 + [3.0] * 30 + [400.0]
    html = figures.latencies(store.load(write(tmp_path, requests=[request(1, itl_ms=gaps)]))).html
    assert f"n = 36, 0 to {text.number(400, 'ms')}" in html
