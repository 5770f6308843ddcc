"""Sentences that open a target's history."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from nexus_tasks.reports.pages.history import sentences
from nexus_tasks.reports.pages.history.past import read
from tests.report_pages import SIZES, opening_text
from tests.report_records import NOON, simulate, write


def test_a_history_tells_the_largest_step_and_what_came_with_it(tmp_path: Path) -> None:
    paths = []
    for day in range(6):
        made = simulate(
            [{"concurrency": 1, "requests": 12}], itl_ms=8.0 if day < 3 else 6.0, output_tokens=16, seed=day
        )
        made["server"] = {"release": "b1-cuda" if day < 3 else "b2-cuda", "build": "b1" if day < 3 else "b2"}
        paths.append(str(write(tmp_path, NOON + timedelta(days=day), **made, **SIZES)))
    paths.append(str(write(tmp_path, NOON + timedelta(days=4, hours=1))))
    past = read(paths)
    said = opening_text(sentences.opening(past))
    assert said.startswith(
        "7 runs of localhost/main in 5 days: 6 of quick 512/16 at concurrency 1, 1 of other workloads"
    )
    assert "the largest step, +3" in said
    assert "came on 2026-11-25 with release b1-cuda → b2-cuda" in said


def test_a_history_tells_nothing_of_runs_that_are_not_valid_and_of_what_no_record_knows(tmp_path: Path) -> None:
    unknown = {"argv": None, "argv_sha256": None, "release": None}
    lost: Mapping[str, Any] = {"valid": False, "reasons": ["too busy"]}
    paths = [
        str(write(tmp_path, NOON + timedelta(hours=hour), server=unknown, trailer=lost if hour else {}))
        for hour in range(3)
    ]
    past = read(paths)
    said = opening_text(sentences.opening(past))
    assert said.startswith("3 runs of localhost/main within a day: 3 of quick 128/5 at concurrency 1.")
    assert "Only one of these was finished and is valid, so there is no change to tell." in said
    assert said.endswith("Model and build were the same in all runs; release, driver and options are not on record.")
