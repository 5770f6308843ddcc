"""Arrivals, stalls and the refusal of stages that contradict themselves."""

from __future__ import annotations

import itertools

import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.load import generator
from nexus_tasks.load.generator import Request, Stage, arrivals, check, request_row, stalls
from nexus_tasks.load.response import Reading


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


@pytest.mark.parametrize(
    ("gaps", "count"),
    [
        ([], 0),
        ([10.0] * 9 + [499.0], 0),
        ([10.0] * 9 + [501.0], 1),
        ([100.0] * 9 + [900.0], 0),
        ([100.0] * 9 + [1001.0, 1500.0], 2),
    ],
)
def test_a_stall_is_long_and_far_above_the_usual_gap(gaps: list[float], count: int) -> None:
    assert stalls(gaps) == count


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Stage("round", requests=1), "mode"),
        (Stage("closed", requests=1), "concurrency"),
        (Stage("closed", concurrency=0, requests=1), "concurrency"),
        (Stage("poisson", requests=1), "rate"),
        (Stage("burst", rate_per_s=1, requests=1), "together"),
        (Stage("closed", concurrency=1), "neither"),
        (Stage("closed", concurrency=1, requests=1, warmup=-1), "negative"),
    ],
)
def test_a_stage_that_contradicts_itself_is_refused(stage: Stage, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(stage)


def test_latencies_count_from_when_the_request_was_due_and_queueing_from_when_it_was_sent() -> None:
    reading = Reading(
        tokens=[11.0, 11.5, 12.0], visible=11.5, end=12.25, output_tokens=3, prompt_tokens=5,
        timings={"prompt_n": 5, "prompt_ms": 200.0, "predicted_n": 3, "draft_n": 4, "draft_n_accepted": 2},
    )  # fmt: skip
    row = request_row(Request("/completion", b""), reading, intended=10.0, sent=10.5, ended=99.0, origin=8.0)
    assert (row["intended_s"], row["start_s"], row["late_ms"]) == (2.0, 2.5, 500.0)
    assert (row["ttft_ms"], row["ttft_visible_ms"], row["total_ms"]) == (1000.0, 1500.0, 2250.0)
    assert (row["queue_ms"], row["decode_ms"], row["tpot_ms"], row["decode_tps"]) == (300.0, 1000.0, 500.0, 2.0)
    assert (row["itl_ms"], row["prefill_tps"], row["draft"]) == ([500.0, 500.0], 25.0, {"n": 4, "accepted": 2})


def test_the_lag_of_several_processes_is_taken_together() -> None:
    quiet, late = [100, 0, 0, 0], [0, 0, 0, 3]
    assert generator.lag([quiet, late], 0.5) == {"p50": 0.1, "p99": 0.4, "max": 500.0}
    assert generator.lag([], 0.0) == {"p50": None, "p99": None, "max": None}


@pytest.mark.parametrize(
    ("looks", "too_late"), [([40, 0, 2], False), ([40, 0, 3], True), ([40, 9, 0], False), ([900, 0, 3], False)]
)
def test_a_generator_that_was_late_once_or_twice_measured_well(looks: list[int], too_late: bool) -> None:
    on_time, just_in_time, late = looks
    histogram = [on_time, *[0] * 28, just_in_time, late]
    assert generator.too_late([histogram, [0] * 31]) is too_late
    assert not generator.too_late([])
