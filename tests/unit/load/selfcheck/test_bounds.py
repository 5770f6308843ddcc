"""Bounds of the load generator's own figures."""

from __future__ import annotations

import pytest

from nexus_tasks.load.selfcheck.bounds import Check


@pytest.mark.parametrize(
    ("value", "at_most", "ok"), [(1.0, True, True), (1.1, True, False), (1.0, False, True), (0.9, False, False)]
)
def test_a_figure_may_lie_on_its_bound_but_not_beyond(value: float, at_most: bool, ok: bool) -> None:
    assert Check("x", value, 1.0, at_most=at_most).ok is ok
