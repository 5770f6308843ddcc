"""Changes between the runs of a target."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from nexus_tasks.reports.pages.history import figures
from nexus_tasks.reports.pages.history.past import read
from tests.report_records import NOON, write

HOUR = timedelta(hours=1)


def test_a_change_is_marked_at_the_first_run_with_it_and_what_is_unknown_is_none(tmp_path: Path) -> None:
    told: list[Mapping[str, Any]] = [
        {"release": "b1", "build": "b1"},
        {"release": None, "build": None},
        {"release": "b1", "build": "b1", "argv_sha256": "ee" * 32},
        {"release": "b2", "build": "b2", "argv_sha256": "ee" * 32},
    ]
    paths = [str(write(tmp_path, NOON + place * HOUR, server=server)) for place, server in enumerate(told)]
    past = read(paths)
    assert [(mark["letter"], mark["at"], mark["what"]) for mark in past.marks] == [
        ("a", pd.Timestamp(NOON + 2 * HOUR), "other options"),
        ("b", pd.Timestamp(NOON + 3 * HOUR), "release b1 → b2"),
    ]
    html = figures.trends(past).html
    assert re.findall(r">([a-z])</text>", html) == ["a", "b"]
