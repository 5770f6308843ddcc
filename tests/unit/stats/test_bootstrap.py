"""Intervals against what is known of made-up points, and against textbooks."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from nexus_tasks.stats.bootstrap import interval, intervals, t_quantile

TRIALS = 400
# 400 intervals of 95 % hold the truth in fewer than 361 or more than 395 cases once in a thousand times.
RARELY = (361, 396)


def held(statistic: str, truth: float, groups: int, of_each: int) -> int:
    """How many of TRIALS intervals hold the truth, of log-normal points that are alike within a group."""
    rng = np.random.default_rng(7)
    count = 0
    for _ in range(TRIALS):
        points = np.exp(rng.normal(0, 0.05, (groups, 1)) + rng.normal(0, 0.05, (groups, of_each)))
        found = interval(list(points), statistic, rng=rng)
        assert found is not None
        count += found[0] <= truth <= found[1]
    return count


@pytest.mark.parametrize("groups", [8, 40])
@pytest.mark.parametrize(("statistic", "truth"), [("median", 1.0), ("mean", float(np.exp(0.05**2)))])
def test_intervals_hold_the_truth_as_often_as_they_say(statistic: str, truth: float, groups: int) -> None:
    assert RARELY[0] <= held(statistic, truth, groups, 50) <= RARELY[1]


def test_the_interval_of_a_p95_holds_the_truth_nearly_as_often_as_it_says() -> None:
    truth = float(np.exp(1.6449 * 0.05 * 2**0.5))
    assert held("p95", truth, 60, 50) >= 355


def test_gaps_of_one_request_stay_together() -> None:
    rng = np.random.default_rng(1)
    of_requests = rng.normal(10, 1, 20)
    alike = [np.full(100, value) for value in of_requests]
    found = interval(alike, "mean")
    single = interval([[value] for value in of_requests], "mean")
    assert found == pytest.approx(single)  # a hundred gaps that are the same say no more than one
    shuffled = rng.permutation(np.concatenate(alike)).reshape(20, 100)
    apart = interval(list(shuffled), "mean")
    assert found is not None
    assert apart is not None
    assert apart[1] - apart[0] < (found[1] - found[0]) / 4


def test_requests_with_more_gaps_count_for_more() -> None:
    long, short = [np.full(90, 20.0)] * 10, [np.full(10, 10.0)] * 10
    found = interval([*long, *short], "mean")
    assert found is not None
    assert found[0] < 19.0 < found[1]  # (90 * 20 + 10 * 10) / 100
    assert found[0] > 15.0


@pytest.mark.parametrize(
    ("statistic", "too_few", "enough"), [("mean", 4, 5), ("median", 4, 8), ("p95", 40, 200), ("p99", 200, 1000)]
)
def test_where_points_are_too_few_there_is_no_interval(statistic: str, too_few: int, enough: int) -> None:
    points = np.random.default_rng(2).normal(10, 1, enough)
    assert interval([[value] for value in points[:too_few]], statistic) is None
    assert interval([[value] for value in points], statistic) is not None


def test_no_requests_have_no_interval() -> None:
    assert interval([]) is None
    assert interval([[]] * 10) is None


def test_points_that_are_all_the_same_have_an_interval_without_width() -> None:
    for statistic in ("mean", "median", "p95"):
        assert interval([[5.0, 5.0]] * 10, statistic) == (5.0, 5.0)


def test_the_interval_of_an_odd_number_of_points_leans_to_no_side() -> None:
    found = interval([[float(n)] for n in range(-15, 16)])
    assert found is not None
    assert found[0] + found[1] == pytest.approx(0, abs=0.05)


def test_requests_without_points_change_nothing() -> None:
    points = [[value, value + 1] for value in np.random.default_rng(3).normal(10, 1, 30)]
    assert interval([*points[:10], [], *points[10:], []], "median") == interval(points, "median")


def test_intervals_are_the_same_whenever_they_are_computed() -> None:
    points = [[value] for value in np.random.default_rng(4).normal(10, 1, 50)]
    assert interval(points, "mean") == interval(points, "mean")
    assert interval(points, "mean") != interval(points, "mean", rng=np.random.default_rng(99))


def test_more_requests_than_blocks_give_the_width_of_the_normal_distribution() -> None:
    points = np.random.default_rng(5).normal(10, 1, 20_000)
    found = intervals(points, np.ones(len(points), dtype=np.int64), ("mean",))["mean"]
    assert found is not None
    expected = 2 * 1.96 * points.std() / len(points) ** 0.5
    assert found[1] - found[0] == pytest.approx(expected, rel=0.08)


def test_many_requests_that_are_like_their_neighbours_say_less() -> None:
    moments = np.repeat(np.random.default_rng(5).normal(10, 1, 1000), 20)  # twenty requests share each moment
    sizes = np.ones(len(moments), dtype=np.int64)
    found = intervals(moments, sizes, ("mean", "median"))
    expected = 2 * 1.96 * moments.std() / 1000**0.5
    for statistic, factor in (("mean", 1.0), ("median", 1.2533)):
        within = found[statistic]
        assert within is not None
        assert within[1] - within[0] == pytest.approx(expected * factor, rel=0.15)


def test_a_million_gaps_take_the_memory_of_a_few_copies() -> None:
    values, sizes = np.random.default_rng(6).lognormal(1.6, 0.1, 1_000_000), np.full(1000, 1000)
    tracemalloc.start()
    try:
        found = intervals(values, sizes, ("median", "mean", "p95", "p99"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert all(found.values())
    assert peak < 100e6  # the gaps are 8 MB; all that is drawn would be 8 GB


@pytest.mark.parametrize(
    ("probability", "degrees", "tabled"),
    [
        (0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.975, 4, 2.77645), (0.995, 3, 5.84091), (0.9995, 4, 8.61030),
        (0.995, 9, 3.24984), (0.975, 30, 2.04227), (0.975, float("inf"), 1.95996),
    ],
)  # fmt: skip
def test_quantiles_of_students_t_are_those_of_tables(probability: float, degrees: float, tabled: float) -> None:
    assert t_quantile(probability, degrees) == pytest.approx(tabled, rel=1e-4)
