"""Shares of requests that failed or kept their objectives."""

from __future__ import annotations

import numpy as np
import pytest

from nexus_tasks.comparison import simulation
from nexus_tasks.comparison.simulation import Design, Noise
from nexus_tasks.comparison.verdicts import BETTER, CANT_TELL, WORSE, Finding, judge
from nexus_tasks.records.benchmark_rows import Error
from nexus_tasks.records.store import BenchmarkRecord
from tests.compare_records import changed, finding, names, run
from tests.support.known import known

TIMEOUT = Error(kind="timeout", message="?")


def objective(slo: dict[str, float], *sides: list[BenchmarkRecord]) -> list[list[BenchmarkRecord]]:
    """Runs with objectives, and gaps as records have them."""
    for record in (one for side in sides for one in side):
        for row in record.requests:
            row.itl_ms = list(row.itl_ms)
    return [[changed(record, {"load.slo": slo}) for record in side] for side in sides]


@pytest.mark.parametrize(
    "design", [Design(requests=20), Design(requests=200), Design(rounds=5), Design(requests=20, repeats=3)]
)
def test_equal_runs_at_the_edge_of_an_objective_are_not_called_different(design: Design) -> None:
    rng = np.random.default_rng(10)
    verdicts_ = [
        finding(judge(*objective({"ttft_ms": 122.3}, *simulation.pair(rng, Noise(), design))), "goodput").verdict
        for _ in range(40)
    ]
    assert sum(verdict in (BETTER, WORSE) for verdict in verdicts_) <= 4


def test_an_objective_that_is_missed_for_good_is_worse() -> None:
    for design in (Design(requests=50), Design(rounds=10), Design(requests=20, repeats=3)):
        a, b = objective({"ttft_ms": 135.0}, *simulation.pair(np.random.default_rng(11), Noise(), design))
        for row in (row for record in b for row in record.requests):
            row.ttft_ms = known(row.ttft_ms) * 1.15
        assert finding(judge(a, b), "goodput").verdict == WORSE


def test_failures_in_one_burst_say_less_than_as_many_apart() -> None:
    def failing(places: range) -> Finding:
        b = run("b", requests=200)
        for place in places:
            b.requests[place].ok, b.requests[place].error = False, TIMEOUT
        return finding(judge([run("a", requests=200)], [b]), "failed")

    burst, apart = failing(range(50, 70)), failing(range(5, 200, 10))
    assert burst.change == apart.change == pytest.approx(10.0)
    assert burst.low is not None
    assert apart.low is not None
    assert burst.low < apart.low / 2


def test_failures_and_goodput_are_compared_as_shares() -> None:
    a, b = run("a", requests=100), run("b", requests=100)
    slo = {"load.slo": {"ttft_ms": 1000.0}}
    for row in b.requests[:30]:
        row.ok, row.error = False, TIMEOUT
    found = judge([changed(a, slo)], [changed(b, slo)])
    failed, goodput = finding(found, "failed"), finding(found, "goodput")
    assert (failed.before, failed.after, failed.change) == (0.0, 30.0, 30.0)
    assert (failed.verdict, goodput.verdict) == (WORSE, WORSE)
    assert goodput.change == pytest.approx(-30)
    assert "goodput" not in names(judge([changed(a, slo)], [b]))


def test_a_few_failures_more_may_be_chance() -> None:
    a, b = run("a"), run("b")
    b.requests[0].ok, b.requests[0].error = False, TIMEOUT
    assert finding(judge([a], [b]), "failed").verdict == CANT_TELL
