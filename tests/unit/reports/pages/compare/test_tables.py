"""Tables of a comparison's page."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from nexus_tasks.reports.pages.compare import sides, tables
from nexus_tasks.reports.pages.compare.sides import Compared
from tests.report_records import NOON, simulate, write


def test_a_comparison_shows_each_verdict_with_its_interval(pair: Compared) -> None:
    found = pair.comparisons[0]
    assert not isinstance(found, str)
    html = tables.judged(pair).html
    for finding in found.findings:
        if finding.change is not None and finding.low is not None and finding.high is not None:
            assert f">{finding.change:+.1f} %</td>" in html
            assert f">{finding.low:+.1f} to {finding.high:+.1f}</td>" in html
    assert '<td class="bad">worse</td>' in html


def test_a_comparison_of_two_targets_says_that_these_differ(tmp_path: Path) -> None:
    plans = [{"concurrency": 2, "requests": 10}]
    paths = [
        [str(write(tmp_path, NOON + timedelta(hours=place), target=f"gpu{place}/main", **simulate(plans, seed=place)))]
        for place in range(2)
    ]
    said = tables.doubts(sides.read(paths)).html
    assert "Nothing but the moment and the target differs, as far as the records know." in said
