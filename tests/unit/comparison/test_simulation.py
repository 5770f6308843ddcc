"""How often verdicts are right."""

from __future__ import annotations

import pytest

from nexus_tasks.comparison import simulation
from nexus_tasks.comparison.simulation import Design, Noise


@pytest.mark.parametrize(
    ("design", "machine"),
    [
        (Design("two runs", requests=10), Noise()),
        (Design("interleaved", rounds=5), Noise()),
        (Design("interleaved", rounds=5), Noise(drift=1.4)),
    ],
)
def test_a_loss_of_5_percent_is_found_and_equal_runs_are_not_called_different(design: Design, machine: Noise) -> None:
    rates = simulation.simulate(design, 300, noise=machine, seed=1)
    # At the promised 5 % and 95 %, 300 trials give more than 26 or fewer than 274 less than once in a thousand times.
    assert rates.called_different <= 26 / 300
    assert rates.loss_found >= 274 / 300


def test_ten_rounds_call_equal_servers_the_same() -> None:
    assert simulation.simulate(Design(rounds=10), 100).called_same > 0.9
