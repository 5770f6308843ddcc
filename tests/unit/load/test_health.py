"""The lag of event loops: its percentiles, and when it harms what is measured."""

from __future__ import annotations

import pytest

from nexus_tasks.load import health
from nexus_tasks.records.benchmark_rows import Percentiles


def test_the_lag_of_several_processes_is_taken_together() -> None:
    quiet, late = [100, 0, 0, 0], [0, 0, 0, 3]
    assert health.lag([quiet, late], 0.5) == Percentiles(p50=0.1, p99=0.4, max=500.0)
    assert health.lag([], 0.0) == Percentiles(p50=None, p99=None, max=None)


@pytest.mark.parametrize(
    ("looks", "too_late"), [([40, 0, 2], False), ([40, 0, 3], True), ([40, 9, 0], False), ([900, 0, 3], False)]
)
def test_a_generator_that_was_late_once_or_twice_measured_well(looks: list[int], too_late: bool) -> None:
    on_time, just_in_time, late = looks
    histogram = [on_time, *[0] * 28, just_in_time, late]
    assert health.too_late([histogram, [0] * 31]) is too_late
    assert not health.too_late([])
