"""Costs beside those of bare C."""

from __future__ import annotations

import pytest

from nexus_tasks.load.selfcheck import costs
from nexus_tasks.load.selfcheck.cores import Cores
from nexus_tasks.load.selfcheck.costs import CHAT, Cost, Streams


def spent(cpu_s: float, total_s: float) -> Cost:
    return Cost(1000, 1.0, cpu_s, total_s, 0, None, 500)


def test_a_share_is_that_of_its_own_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is slower for a while is slower for both of a pair."""
    bare, load = (
        iter(spent(*seconds) for seconds in of) for of in (((1, 1), (4, 4), (2, 2)), ((2, 4), (8, 8), (5, 5)))
    )
    monkeypatch.setattr(costs, "bare", lambda *_: next(bare))
    monkeypatch.setattr(costs, "cost", lambda *_: next(load))
    both = costs.beside_bare(Streams(CHAT, 8, 10, 100), Cores(None, None), trials=3)
    assert both["bare"]["streaming_per_cpu_s"] == 500
    assert both["load"]["streaming_per_cpu_s"] == 200
    assert both["share"] == {"tokens_per_s": 1.0, "streaming_per_cpu_s": 0.5, "evaluated_per_cpu_s": 0.4}
