"""Energy from samples: which readings count, and when it is unknown."""

from __future__ import annotations

import math
import random

import pytest

from nexus_tasks.records.benchmark_rows import Energy, SampleRow
from nexus_tasks.stats.energy import GAP_S, EnergySum, Windows, added, energy
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


def test_machines_are_summed_up_and_named() -> None:
    rigs = [sample(float(t), (100.0, None), source=name) for t in range(5) for name in ("rig-2", "rig-1")]
    assert energy(rigs, 0.0, 4.0) == Energy(joules=800.0, joules_per_token=None, source="rig-1, rig-2")


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


# --- window by window


def counted(samples: list[SampleRow], ended_s: float, *, every_s: float = 10.0) -> Windows:
    """The windows of a run whose samples come one after the other, as they do."""
    windows, at = Windows(), every_s
    for row in sorted(samples, key=lambda row: row.t_s):
        if row.t_s > at:
            windows.count(at - GAP_S)
            at += every_s
        windows.take([row])
    windows.count(ended_s)
    return windows


def walk(seed: int, ended_s: float, *, source: str, counter: bool) -> list[SampleRow]:
    """Samples at uneven times, of a GPU whose power goes up and down."""
    drawn, at, rows, joules = random.Random(seed), 0.1, [], 5e6  # noqa: S311 - test data
    while at < ended_s:
        power = drawn.uniform(50, 700)
        rows.append(sample(at, (power, joules if counter else None), source=source))
        step = drawn.choice([0.5, 0.51, 0.7, 2.5, 4.9])
        at, joules = at + step, joules + power * step
    return rows


@pytest.mark.parametrize("counter", [True, False], ids=["by its counter", "by its power"])
@pytest.mark.parametrize("ended_s", [3.0, 10.0, 14.9, 15.1, 333.3])
def test_windows_come_to_what_the_whole_run_does(counter: bool, ended_s: float) -> None:
    both = [*walk(1, ended_s, source="rig-1", counter=counter), *walk(2, ended_s, source="rig-2", counter=not counter)]
    whole = energy(both, 0.0, ended_s)
    assert whole
    told = counted(both, ended_s).sum()
    assert told
    assert told.joules == pytest.approx(whole.joules, abs=0.002)
    assert (told.sources, told.at_least) == (("rig-1", "rig-2"), False)


def test_windows_keep_no_samples_for_long() -> None:
    windows = Windows()
    for second in range(3600):
        windows.take([sample(float(second), (100.0, None))])
        if second % 10 == 9:
            windows.count(second - GAP_S)
            assert len(windows._samples) <= 2 * GAP_S + 1
    windows.count(3599.0)
    assert windows.sum() == EnergySum(359900.0, ("client",))


def test_a_source_that_falls_silent_makes_the_sum_a_lower_bound_and_is_named() -> None:
    lives = [sample(float(t), (100.0, None), source="rig-1") for t in range(61)]
    dies = [sample(float(t), *([(100.0, None)] if t <= 30 else []), source="rig-2") for t in range(61)]
    windows = counted([*lives, *dies], 60.0)
    told = windows.sum()
    assert windows.gaps == {"rig-2"}
    assert told
    assert told.at_least
    assert 6000 + 2500 <= told.joules <= 6000 + 3500


def test_a_source_that_comes_later_makes_the_sum_a_lower_bound() -> None:
    lives = [sample(float(t), (100.0, None), source="rig-1") for t in range(61)]
    comes = [sample(float(t), (100.0, None), source="rig-2") for t in range(25, 61)]
    windows = counted([*lives, *comes], 60.0)
    assert windows.gaps == {"rig-2"}
    assert (told := windows.sum())
    assert 9000 <= told.joules <= 6000 + 3500


def test_windows_without_gpus_or_without_their_power_tell_nothing() -> None:
    assert counted([sample(float(t)) for t in range(30)], 29.0).sum() is None
    assert counted([sample(float(t), (None, None)) for t in range(30)], 29.0).sum() is None


def test_sums_add_up_and_stay_lower_bounds() -> None:
    one, other = EnergySum(1.5, ("rig-1", "rig-2")), EnergySum(2.0, ("client", "rig-1"), at_least=True)
    assert added(one, other) == EnergySum(3.5, ("client", "rig-1", "rig-2"), at_least=True)
