"""Energy from samples: which readings count, and when it is unknown."""

from __future__ import annotations

import math

import pytest

from nexus_tasks.measurement.energy import energy
from nexus_tasks.records.benchmark_rows import Energy, SampleRow
from tests import report_records


def sample(at: float, *gpus: tuple[float | None, float | None], source: str = "client") -> SampleRow:
    """A row with the power and the energy of each GPU."""
    states = [{"index": n, "power_w": power, "energy_j": energy} for n, (power, energy) in enumerate(gpus)]
    typed: SampleRow = report_records.typed(report_records.sample(at, states, source=source))
    return typed


def joules(samples: list[SampleRow], begun_s: float, ended_s: float) -> float:
    taken = energy(samples, begun_s, ended_s)
    assert taken
    return taken.joules


def test_power_is_integrated_between_the_two_moments_only() -> None:
    rising = [sample(t / 2, (100.0 + 10 * t / 2, None)) for t in range(21)]  # 100 W, and 10 W more each second
    assert joules(rising, 2.0, 4.0) == pytest.approx(260)
    assert joules(rising, 2.25, 2.35) == pytest.approx(12.3, rel=0.01)


def test_the_counter_of_a_gpu_counts_more_than_its_power() -> None:
    samples = [sample(float(t), (100.0, 5000.0 + 250 * t)) for t in range(6)]
    assert joules(samples, 1.5, 3.5) == pytest.approx(500)


def test_a_counter_that_began_anew_is_left_alone() -> None:
    samples = [sample(float(t), (100.0, energy)) for t, energy in enumerate((900.0, 1000.0, 3.0, 103.0))]
    assert joules(samples, 0.0, 3.0) == pytest.approx(300)


def test_gpus_are_summed_up_each_by_what_it_offers() -> None:
    samples = [sample(float(t), (100.0, None), (None, 50.0 * t)) for t in range(5)]
    assert energy(samples, 0.0, 4.0) == Energy(joules=600.0, joules_per_token=None, source="client")


def test_a_gpu_whose_power_nobody_knows_makes_the_sum_unknown() -> None:
    assert energy([sample(float(t), (100.0, None), (None, None)) for t in range(5)], 0.0, 4.0) is None


def test_scraped_hosts_count_and_this_machine_does_not() -> None:
    own = [sample(float(t), (30.0, None)) for t in range(5)]
    rigs = [sample(float(t), (100.0, None), source=name) for t in range(5) for name in ("rig-1", "rig-2")]
    assert energy([*own, *rigs], 0.0, 4.0) == Energy(joules=800.0, joules_per_token=None, source="rig-1, rig-2")


@pytest.mark.parametrize(
    ("times", "known"),
    [
        ([0.0, 5.0, 10.0], True),
        ([0.0, 4.9, 10.0], False),  # in the middle nothing is known for 5.1 seconds
        ([6.0, 8.0, 10.0], False),  # nothing at the beginning
        ([0.0, 2.0, 4.0], False),  # nothing at the end
        ([-1.0, 3.0, 7.0, 11.0], True),
        ([5.0], False),  # one reading is no line
        ([], False),
    ],
)
def test_energy_is_known_only_where_readings_are_close_enough(times: list[float], known: bool) -> None:
    assert (energy([sample(t, (100.0, None)) for t in times], 0.0, 10.0) is not None) is known


def test_gaps_of_a_source_are_passed_over() -> None:
    samples = [sample(float(t), (100.0, None), source="rig") for t in range(5)]
    samples.insert(2, sample(1.5, source="rig"))
    assert math.isclose(joules(samples, 0.0, 4.0), 400)


def test_without_gpus_there_is_no_energy() -> None:
    assert energy([sample(float(t)) for t in range(5)], 0.0, 4.0) is None
