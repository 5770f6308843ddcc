"""Tables of a benchmark's page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nexus_tasks.records import store
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports.pages.benchmark import tables
from tests.report_records import failure, request, write


@pytest.mark.parametrize(("limit", "tone"), [(2.0, "good"), (0.5, "bad")])
def test_the_agreement_is_judged_by_its_mark(record: BenchmarkRecord, limit: float, tone: str) -> None:
    assert f'class="note {tone}"' in tables.agreement(record, limit).html


def test_an_slo_has_the_share_of_the_requests_that_met_it(tmp_path: Path) -> None:
    rows = [request(1, ttft_ms=100.0), request(2, ttft_ms=300.0), request(3, ttft_ms=500.0), failure(4, "timeout", "")]
    html = tables.objectives(store.load(write(tmp_path, requests=rows, slo={"ttft_ms": 300, "itl_p95_ms": 1}))).html
    assert re.findall(r'<td class="number ">([\d.]+) %</td><td class="number ">([\d.]+)</td>', html) == [
        ("50.0", "500"), ("0.0", "3.85"),
    ]  # fmt: skip


def test_requests_of_several_levels_are_named_by_the_number_of_theirs(sweep: BenchmarkRecord) -> None:
    table = tables.requests(sweep).html
    assert '<th scope="col" class="number">Level</th>' in table
    assert "concurrency" not in table
