"""The figures of a list of points, against values worked out by hand."""

from __future__ import annotations

import pytest

from nexus_tasks.summary import summarise


def test_no_points_have_no_summary() -> None:
    assert summarise([]) is None


def test_few_points_are_kept_in_their_order_and_have_no_percentiles() -> None:
    figures = summarise([4.0, 1.0, 7.0])
    assert figures == {
        "n": 3, "min": 1.0, "max": 7.0, "mean": 4.0, "median": 4.0, "stdev": 3.0,
        "p90": None, "p95": None, "p99": None, "points": [4.0, 1.0, 7.0],
    }  # fmt: skip


def test_one_point_has_no_deviation() -> None:
    figures = summarise([5.0])
    assert figures is not None
    assert figures["stdev"] is None
    assert (figures["min"], figures["mean"], figures["max"]) == (5.0, 5.0, 5.0)


@pytest.mark.parametrize(("count", "has_percentiles"), [(19, False), (20, True)])
def test_percentiles_take_the_place_of_the_points_from_twenty_on(count: int, has_percentiles: bool) -> None:
    figures = summarise([float(n) for n in range(count)])
    assert figures is not None
    assert (figures["p95"] is not None) is has_percentiles
    assert (figures["points"] is None) is has_percentiles


def test_percentiles_lie_between_the_nearest_points() -> None:
    figures = summarise([float(n) for n in reversed(range(101))])
    assert figures is not None
    assert (figures["p90"], figures["p95"], figures["p99"]) == (90.0, 95.0, 99.0)
    halfway = summarise([0.0] * 19 + [10.0])
    assert halfway is not None
    assert halfway["p95"] == pytest.approx(0.5)  # position 18.05 of 0..19: a twentieth of the way from 0 to 10


def test_the_deviation_is_that_of_a_sample() -> None:
    figures = summarise([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert figures is not None
    assert figures["stdev"] == pytest.approx((32 / 7) ** 0.5)
    assert figures["median"] == 4.5
