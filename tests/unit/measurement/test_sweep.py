"""A sweep finds where throughput stops growing, in few measurements."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nexus_tasks.measurement import sweep
from nexus_tasks.records.benchmark_rows import Throughput


def measure(
    throughput: Callable[[float], float], *, max_level: float = 256, first: float = 1, whole: bool = True
) -> list[float]:
    """The levels that a sweep measures, in order."""
    measured: dict[float, float] = {}
    while (level := sweep.next_level(measured, first=first, max_level=max_level, whole=whole)) is not None:
        assert level not in measured
        measured[level] = throughput(level)
    return list(measured)


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 100])
def test_the_knee_of_a_server_with_slots_is_at_its_slots(slots: int) -> None:
    levels = measure(lambda users: min(users, slots) * 50.0)
    found = sweep.knee({users: min(users, slots) * 50.0 for users in levels})
    assert found / slots == pytest.approx(1, abs=0.2)
    assert len(levels) <= 14


def test_levels_double_first_and_then_close_in_on_the_knee() -> None:
    assert measure(lambda users: min(users, 8) * 50.0) == [1, 2, 4, 8, 16, 6, 7, 11, 9]


def test_a_sweep_ends_at_the_highest_level_that_is_allowed() -> None:
    levels = measure(lambda users: users * 50.0, max_level=24)
    assert max(levels) == 24
    assert sweep.knee({users: users * 50.0 for users in levels}) == 24


def test_a_throughput_that_sinks_under_load_does_not_move_the_knee() -> None:
    levels = measure(lambda users: users * 50.0 if users <= 4 else 150.0)
    assert sweep.knee({users: users * 50.0 if users <= 4 else 150.0 for users in levels}) == 4


def test_rates_lie_between_whole_numbers() -> None:
    levels = measure(lambda rate: min(rate, 0.9), first=0.25, whole=False)
    assert sweep.knee({rate: min(rate, 0.9) for rate in levels}) == pytest.approx(0.9, rel=0.15)
    assert levels[:4] == [0.25, 0.5, 1.0, 2.0]


def test_levels_are_compared_in_tokens_where_all_are_known_and_in_requests_otherwise() -> None:
    def rates(output_tps: float | None, requests_per_s: float | None) -> Throughput:
        return Throughput(output_tps=output_tps, requests_per_s=requests_per_s, prompt_tps=None, total_tps=None)

    known: dict[float, Throughput | None] = {1.0: rates(50.0, 1.0), 2.0: rates(90.0, 2.0)}
    assert sweep.throughputs(known, tokens=True) == {1.0: 50.0, 2.0: 90.0}
    assert sweep.throughputs(known, tokens=False) == {1.0: 1.0, 2.0: 2.0}
    unknown = known | {4.0: rates(None, None), 8.0: None}
    assert sweep.throughputs(unknown, tokens=True) == {1.0: 1.0, 2.0: 2.0, 4.0: 0.0, 8.0: 0.0}
