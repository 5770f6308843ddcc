"""Arrivals of an open loop."""

from __future__ import annotations

import itertools

import pytest

from nexus_tasks.load.arrivals import arrivals
from nexus_tasks.load.requests import Stage


def first(stage: Stage, count: int) -> list[float]:
    return list(itertools.islice(arrivals(stage), count))


def test_a_constant_rate_has_even_steps() -> None:
    assert first(Stage("constant", rate_per_s=4), 5) == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_bursts_keep_the_mean_rate() -> None:
    assert first(Stage("burst", rate_per_s=4, burst=2), 6) == [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]


def test_poisson_arrivals_are_those_of_their_seed_and_have_the_mean_and_spread_of_the_process() -> None:
    moments = first(Stage("poisson", rate_per_s=10, seed=3), 20_000)
    assert moments == first(Stage("poisson", rate_per_s=10, seed=3), 20_000)
    assert moments != first(Stage("poisson", rate_per_s=10, seed=4), 20_000)
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(0.1, rel=0.03)
    assert spread == pytest.approx(0.1, rel=0.05)


def test_a_rate_grows_evenly_over_its_ramp() -> None:
    moments = first(Stage("constant", rate_per_s=10, ramp_s=4), 40)
    # Half the mean rate over the ramp: 20 requests in it, 5 of them in its first half.
    assert sum(moment < 4 for moment in moments) == 20
    assert sum(moment < 2 for moment in moments) == 5
    assert moments[21] - moments[20] == pytest.approx(0.1)
