"""Figures of distributions."""

from __future__ import annotations

import re

import numpy as np

from nexus_tasks.core.text import SPACE
from nexus_tasks.reports.distributions import distribution
from nexus_tasks.reports.drawing import ORANGE


def test_tokens_are_whole_and_times_have_the_digits_that_mean_something() -> None:
    values = np.arange(10.0, 60.0)
    tokens = distribution("t", "Answer", "tokens", values, [("median", 34.5, ORANGE)], most="longest").html
    assert "n = 50, 10 to 59 tokens. Ticks along the foot are the longest 1" in tokens
    times = distribution("t", "Whole request", "ms", values, [("median", 34.5, ORANGE)]).html
    assert f"n = 50, 10.0 to 59.0{SPACE}ms. Ticks along the foot are the slowest 1" in times
    assert f"50 points: 10.0 to 59.0{SPACE}ms, median 34.5{SPACE}ms." in times


def test_a_value_that_never_changes_is_drawn() -> None:
    for value in (0.0, 1.0, 0.25, 1e12):
        assert "<svg" in distribution("t", "Answer", "tokens", np.full(40, value), [("median", value, ORANGE)]).html


def test_bars_of_whole_numbers_hold_equally_many_of_them() -> None:
    html = distribution("t", "Answer", "tokens", np.repeat(np.arange(100.0, 150.0), 8), []).html
    bars = re.findall(r'd="M [\d.]+ ([\d.]+) \nL [\d.]+ \1 \nL [\d.]+ ([\d.]+) \nL [\d.]+ \2 \nz', html)
    assert len(bars) >= 20
    assert len({top for _, top in bars}) == 1


def test_marks_are_labelled_as_the_values_are() -> None:
    values = np.full(40, 24.0)
    assert ">median 24<" in distribution("t", "Prompt", "tokens", values, [("median", 24.0, ORANGE)]).html
    assert "n = 40, 24 tokens." in distribution("t", "Prompt", "tokens", values, []).html
    assert ">median 24.0<" in distribution("t", "Whole request", "ms", values, [("median", 24.0, ORANGE)]).html


def test_nothing_measured_is_said() -> None:
    assert "nothing was measured" in distribution("t", "Answer", "tokens", np.empty(0), []).html
