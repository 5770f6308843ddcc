"""How sure a difference is: runs at different times, repeats of them, and rounds of both."""

from __future__ import annotations

import numpy as np
import pytest

from nexus_tasks.comparison import simulation
from nexus_tasks.comparison.quantities import DECODE
from nexus_tasks.comparison.simulation import Design, Noise
from nexus_tasks.comparison.verdicts import CANT_TELL, SAME, WORSE, judge
from tests.compare_records import changed, finding, run, width


def test_two_single_runs_are_never_the_same_to_a_margin_below_the_drift_that_is_assumed() -> None:
    found = judge([run("a", requests=200)], [run("b", requests=200)], margins={"decode_tps": 1.0})
    decode = finding(found, "decode_tps")
    assert decode.verdict == CANT_TELL
    assert decode.high is not None
    assert decode.low is not None
    # Bonferroni makes it wider than 1.96 * sqrt(2) * 0.7.
    assert decode.high - decode.low > 2 * 1.96 * 2**0.5 * DECODE.drift_percent


def test_repeats_tell_what_single_runs_can_t() -> None:
    one = judge([run("a0")], [run("b0")])
    repeated = judge([run(f"a{n}") for n in range(4)], [run(f"b{n}") for n in range(4)])
    assert (one.noise, repeated.noise) == ("assumed", "repeats")
    assert finding(repeated, "decode_tps").verdict == SAME
    assert width(repeated) < width(one) / 2


def test_repeats_that_differ_among_themselves_make_a_difference_doubtful() -> None:
    wild = (0.9, 1.0, 1.1)
    a = [run(f"a{n}", slower=factor) for n, factor in enumerate(wild)]
    b = [run(f"b{n}", slower=1.05 * factor) for n, factor in enumerate(wild)]
    assert finding(judge(a, b), "decode_tps").verdict == CANT_TELL


def test_rounds_take_the_drift_out() -> None:
    drifting = Noise(drift=5.0, process=0.0)
    a, b = simulation.pair(np.random.default_rng(1), drifting, Design(rounds=10), loss_percent=5)
    found = judge(a, b)
    assert found.noise == "rounds"
    decode = finding(found, "decode_tps")
    assert decode.verdict == WORSE
    assert decode.change == pytest.approx(-5, abs=1)
    assert decode.noise_percent is not None
    assert decode.noise_percent > 1  # what one side differs by from round to round is far more than the interval
    unpaired = [changed(record, {"load.interleaved_with": None}) for record in (*a, *b)]
    assert judge(unpaired[:1], unpaired[1:]).noise == "assumed"


def test_runs_are_in_rounds_only_when_each_names_the_other() -> None:
    a, b = simulation.pair(np.random.default_rng(2), Noise(), Design(rounds=5))
    stranger = [changed(b[0], {"load.interleaved_with": "another"})]
    assert judge(a, stranger).noise == "assumed"


def test_rounds_that_can_t_tell_say_how_many_would() -> None:
    loud = Noise(request_gap=20.0, process=0.0)
    a, b = simulation.pair(np.random.default_rng(3), loud, Design(rounds=5))
    decode = finding(judge(a, b), "decode_tps")
    assert decode.verdict == CANT_TELL
    assert decode.rounds_needed is not None
    assert decode.rounds_needed > 50
    more = simulation.pair(np.random.default_rng(3), loud, Design(rounds=decode.rounds_needed))
    assert finding(judge(*more), "decode_tps").verdict == SAME


def test_changes_within_the_margin_are_the_same_however_sure_they_are() -> None:
    a, b = simulation.pair(np.random.default_rng(4), Noise(), Design(rounds=40), loss_percent=1.5)
    decode = finding(judge(a, b), "decode_tps")
    assert decode.high is not None
    assert decode.high < 0
    assert decode.verdict == SAME
    assert finding(judge(a, b, margins={"decode_tps": 0.5}), "decode_tps").verdict == WORSE
