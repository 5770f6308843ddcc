"""Sweep: the level of load to measure next, until the knee is known, where the server is saturated.

    while (level := sweep.next_level(measured, first=1, max_level=256, whole=True)) is not None:
        measured[level] = throughput_at(level)
    sweep.knee(measured)

First the level is doubled for as long as that brings more throughput. Then levels around the knee are measured, until
its neighbours are close to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from nexus_tasks.records.benchmark_rows import Throughput

GAIN = 0.05
"""Less than this much more throughput is no growth: repeated measurements of one level differ by a few per cent."""
CLOSE = 1.3
"""The neighbours of the knee are at most this factor away, or there is no whole number between."""


def next_level(measured: Mapping[float, float], *, first: float, max_level: float, whole: bool) -> float | None:
    """The next level to measure, or None when the knee is known.

    Args:
        measured: throughput by level, in any one unit.
        first: the level to begin with.
        max_level: the highest level allowed.
        whole: whether levels are whole numbers (users), or not (requests per second).
    """
    if not measured:
        return first
    levels = sorted(measured)
    highest = levels[-1]
    before = max((measured[level] for level in levels[:-1]), default=0.0)
    if highest < max_level and measured[highest] > before * (1 + GAIN):
        return min(highest * 2, max_level)
    at = levels.index(knee(measured))
    for below, above in zip(levels[max(at - 1, 0) :], levels[at : at + 2], strict=False):
        middle = math.sqrt(below * above)
        if whole:
            middle = round(middle)
        if above / below > CLOSE and middle not in (below, above):
            return middle
    return None


def throughputs(stages: Mapping[float, Throughput | None], *, tokens: bool) -> dict[float, float]:
    """Throughput by level, in one unit for all: tokens per second, or where a level's are unknown requests per second.

    Args:
        stages: what came of each level; None where nothing is known.
        tokens: whether tokens tell more than requests, as they do where each level has as many requests as it likes.
    """
    in_tokens = tokens and all(one and one.output_tps for one in stages.values())
    return {
        level: ((one.output_tps if in_tokens else one.requests_per_s) if one else None) or 0.0
        for level, one in stages.items()
    }


def knee(measured: Mapping[float, float]) -> float:
    """The lowest level whose throughput is no growth away from the best."""
    best = max(measured.values())
    return min(level for level, throughput in measured.items() if throughput * (1 + GAIN) >= best)
