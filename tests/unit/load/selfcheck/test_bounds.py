"""Bounds of the load generator's own figures."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_tasks.load.selfcheck.bounds import PACED, Check, checks


@pytest.mark.parametrize(
    ("value", "at_most", "ok"), [(1.0, True, True), (1.1, True, False), (1.0, False, True), (0.9, False, False)]
)
def test_a_figure_may_lie_on_its_bound_but_not_beyond(value: float, at_most: bool, ok: bool) -> None:
    assert Check("x", value, 1.0, at_most=at_most).ok is ok


def figures(**chat: float) -> dict[str, Any]:
    """Figures that keep all bounds, with shares of a chat's cost as they are given."""
    kept = {"tokens_per_s": 1.0, "streaming_per_cpu_s": 0.7, "evaluated_per_cpu_s": 0.35}
    return {
        "errors": [],
        "costs": {PACED: {"share": kept}, "chat at 8": {"share": kept | chat}},
        "many": {"errors": 0},
        "memory": {"peak_mib": 1, "early_mib": 1},
        "startup_cpu_s": 1,
    }


@pytest.mark.parametrize(
    ("share", "missed"),
    [
        ({}, []),
        ({"streaming_per_cpu_s": 0.69}, ["chat at 8, streaming, of bare C"]),
        ({"evaluated_per_cpu_s": 0.34}, ["chat at 8, with record, of bare C"]),
    ],
)
def test_costs_are_bounded_as_shares_of_what_bare_c_does(share: dict[str, float], missed: list[str]) -> None:
    assert [check.name for check in checks(figures(**share)) if not check.ok] == missed
