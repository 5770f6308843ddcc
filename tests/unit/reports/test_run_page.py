"""Head of a page about one run."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

from nexus_tasks.records import store
from nexus_tasks.reports import frames
from nexus_tasks.reports.pages.benchmark import tables
from tests.report_records import NOON, request, write


def test_only_a_distinct_change_is_coloured(tmp_path: Path) -> None:
    slower = [request(number, ttft_ms=150.0) for number in range(1, 5)]
    write(tmp_path, NOON - timedelta(hours=1), requests=slower)
    record = store.load(write(tmp_path, requests=[request(number) for number in range(1, 5)]))
    html = tables.head(record, frames.history(record, tmp_path)).html
    assert re.findall(r'<dd class="(\w+)">([-+.\d]+)\s% since', html) == [
        ("good", "-33.3"),  # TTFT: less is better
        ("muted", "+0.00"),
        ("muted", "+0.00"),
        ("good", "+51.0"),  # prefill: more is better
    ]
