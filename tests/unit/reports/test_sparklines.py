"""Small lines of the index: a target's runs at a glance."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import sparklines
from tests.nasty_records import NASTY, harms
from tests.report_pages import SIZES, stored
from tests.report_records import NOON, embedding, failure, simulate

PLANS = [{"concurrency": 1, "requests": 4}]


def runs(root: Path, paces_ms: Sequence[float], *, day: int = 1, **told: Any) -> list[BenchmarkRecord]:
    """Runs of a target with these gaps between tokens, newest first; another release from a gap of 5 ms on down."""
    made = []
    for place, itl_ms in enumerate(paces_ms):
        run = simulate(PLANS, output_tokens=16, itl_ms=itl_ms, noise=0.0, gpu=False)
        run["server"] |= {"build": "new" if itl_ms <= 5 else "old"}
        made.append(stored(root, when=NOON + timedelta(days=day, hours=place), **{**run, **SIZES, **told}))
    return made[::-1]


def heights(html: str) -> list[float]:
    """How high the first line's points are."""
    points = re.findall(r'points="([^"]*)"', html)[0].split()
    return [-float(point.partition(",")[2]) for point in points]


def test_a_line_has_a_point_for_each_run_oldest_first_and_marks_what_changed(tmp_path: Path) -> None:
    html = sparklines.drawn(runs(tmp_path, [10, 10, 5])).html
    before, unchanged, after = heights(html)
    assert before == unchanged < after
    assert html.count("<polyline") == 2
    assert html.count('class="change"') == 1
    label = re.findall(r'aria-label="([^"]*)"', html)[0].replace("\N{NO-BREAK SPACE}", " ")
    told = r"3 runs: decode from \S+ to \S+ tokens/s and TTFT from \S+ to \S+ ms; changed: build old → new"
    assert re.fullmatch(told, label)


def test_noise_looks_flat(tmp_path: Path) -> None:
    points = heights(sparklines.drawn(runs(tmp_path, [10, 10.02, 9.98])).html)
    assert max(points) - min(points) < 1


def test_only_runs_that_asked_the_same_as_the_newest_are_in_a_line(tmp_path: Path) -> None:
    others = runs(tmp_path, [10, 10, 10], day=0, prompts="same")
    assert sparklines.drawn([*runs(tmp_path, [9]), *others]).html == ""
    assert len(heights(sparklines.drawn([*runs(tmp_path, [9, 9]), *others]).html)) == 2


def test_a_run_that_is_not_ok_is_hollow(tmp_path: Path) -> None:
    bad = simulate(PLANS, output_tokens=16, gpu=False)
    bad["requests"].append(failure(9, "http", "HTTP 500.", phase="run"))
    records = [stored(tmp_path, **{**bad, **SIZES}), *runs(tmp_path, [10])]
    assert sparklines.drawn(records).html.count('class="amiss"') == 2  # once in each line


def test_a_target_of_one_run_or_without_these_metrics_has_no_line(tmp_path: Path) -> None:
    assert sparklines.drawn(runs(tmp_path, [10])).html == ""
    rows = [embedding(index, index * 0.1, 50.0, phase="run") for index in range(3)]
    vectors = [stored(tmp_path, requests=rows, api="embeddings", when=NOON + timedelta(days=day)) for day in (1, 0)]
    assert sparklines.drawn(vectors).html == ""


def test_names_in_what_a_line_says_are_harmless(tmp_path: Path) -> None:
    records = runs(tmp_path, [10, 10])
    records[0].header.server.build = NASTY
    html = sparklines.drawn(records).html
    assert "\N{REPLACEMENT CHARACTER}" in html
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in html
    assert harms(html) == []
