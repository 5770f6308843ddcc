"""Seconds of work, and intervals of them."""

from __future__ import annotations

import pytest

from nexus_tasks.batches.intervals import FIRST_WIDTH_S, INTERVALS, MAX_ROWS, Intervals, WorkClock


def test_pauses_between_sessions_count_for_nothing() -> None:
    clock = WorkClock()
    assert clock.session(1000.0) == 0.0
    assert clock.moment(1004.0) == 4.0
    assert clock.session(9000.0) == 4.0
    assert clock.moment(9001.5) == 5.5


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0 * 365])
def test_a_clock_that_is_set_costs_no_more_than_one_step(jump: float) -> None:
    clock = WorkClock()
    clock.session(1000.0)
    clock.moment(1010.0)
    assert clock.moment(1010.0 + jump) == 10.0
    assert clock.moment(1015.0 + jump) == 15.0


def test_entries_of_one_moment_may_be_out_of_order() -> None:
    clock = WorkClock()
    clock.session(0.0)
    for at in (10.0, 9.9, 10.0, 9.95, 10.1):
        clock.moment(at)
    assert clock.seconds == pytest.approx(10.1)


def test_intervals_grow_so_that_their_number_does_not() -> None:
    intervals = Intervals()
    for second in range(100_000):
        intervals.count("rig", float(second), answered=1, failed=2)
        intervals.spread("rig", second - 3.0, float(second), tokens=7)
    rows = intervals.rows()
    assert INTERVALS / 2 < len(rows) <= INTERVALS
    assert sum(row.answered for row in rows) == 100_000
    assert sum(row.failed for row in rows) == 200_000
    assert sum(row.output_tokens for row in rows) == pytest.approx(700_000)
    assert [row.t_s for row in rows] == pytest.approx([place * rows[0].width_s for place in range(len(rows))])


def test_tokens_are_spread_over_the_time_in_which_they_came() -> None:
    intervals = Intervals()
    intervals.spread("rig", 0.5 * FIRST_WIDTH_S, 2.5 * FIRST_WIDTH_S, tokens=40)
    assert [row.output_tokens for row in intervals.rows()] == [10, 20, 10]


def test_many_endpoints_have_fewer_intervals_each() -> None:
    intervals = Intervals()
    names = [f"gpu-{number}" for number in range(200)]
    for place in range(INTERVALS):
        for name in names:
            intervals.count(name, place * FIRST_WIDTH_S, answered=1)
    rows = intervals.rows()
    assert MAX_ROWS / 4 < len(rows) <= MAX_ROWS
    assert sum(row.answered for row in rows) == 200 * INTERVALS


def test_what_never_happened_has_no_rows() -> None:
    assert Intervals().rows() == []
