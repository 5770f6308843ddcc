"""Effects: B over A of one quantity at one level of load, and how sure that is.

Runs that were measured in turn are compared round by round; others have the drift from run to run in their error.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nexus_tasks.comparison.estimates import Estimate, estimate, figure, lost_at_the_ends
from nexus_tasks.comparison.levels import Level
from nexus_tasks.comparison.quantities import THROUGHPUT, Quantity

DRIFT_DEGREES = 4
"""Repeats outweigh the assumed drift once they say more about it than five runs do."""


@dataclass(frozen=True)
class Effect:
    """The logarithm of B over A, its error and degrees of freedom, and the error that A would have against itself."""

    log: float
    error: float
    degrees: float
    own_error: float


def between(
    sides: tuple[Sequence[Level], Sequence[Level]], quantity: Quantity, *, interleaved: bool
) -> tuple[Effect | None, int]:
    """The effect, and in how many rounds it was measured (1: not in rounds)."""
    if interleaved:
        a, b = sides[0][0], sides[1][0]
        return _in_rounds(a, b, quantity), len(a.rounds())
    estimates = [[estimate(level, quantity) for level in side] for side in sides]
    known = [[one for one in side if one is not None] for side in estimates]
    if any(len(side) < len(of_side) for side, of_side in zip(known, estimates, strict=True)):
        return None, 1
    effect = _apart(known[0], known[1], quantity)
    if quantity == THROUGHPUT:  # twice the error is as much as the beginning and the end can differ
        ends = [float(np.mean([lost_at_the_ends(level) for level in side])) for side in sides]
        effect = dataclasses.replace(effect, error=math.hypot(effect.error, (ends[1] - ends[0]) / 2))
    return effect, 1


def _in_rounds(a: Level, b: Level, quantity: Quantity) -> Effect | None:
    """Round by round: each gives one difference, in which what drifts from round to round is not contained."""
    first, second = a.rounds(), b.rounds()
    pairs = [(figure(first[n], quantity), figure(second[n], quantity)) for n in first if n in second]
    logs = np.array([(math.log(x), math.log(y)) for x, y in pairs if x is not None and y is not None])
    if len(logs) < 2:
        return None
    apart = logs[:, 1] - logs[:, 0]
    error = float(apart.std(ddof=1)) / math.sqrt(len(apart))
    # Neighbouring rounds of one side: what the comparison would show if both sides were the same.
    steps = np.diff(logs, axis=0)
    own = math.sqrt(float((steps**2).mean(axis=0).sum()) / 2 / len(logs))
    return Effect(float(apart.mean()), error, len(apart) - 1, own)


def _apart(a: Sequence[Estimate], b: Sequence[Estimate], quantity: Quantity) -> Effect:
    """Runs at different times: their own errors, and the drift from run to run, assumed until repeats show it."""
    logs = [np.log([one.value for one in side]) for side in (a, b)]
    drift = (quantity.drift_percent / 100) ** 2
    within = [one.error**2 for one in (*a, *b)]
    each = 1 / len(a) + 1 / len(b)
    repeats = len(a) + len(b) - 2
    if repeats:
        measured = sum(float(((side - side.mean()) ** 2).sum()) for side in logs)
        degrees: float = DRIFT_DEGREES + repeats
        variance = (DRIFT_DEGREES * (drift + float(np.mean(within))) + measured) / degrees * each
    else:
        variance = sum(within) + drift * each
        parts = sum(one.error**4 / one.degrees for one in (*a, *b))
        degrees = variance**2 / parts if parts else math.inf  # Satterthwaite; the assumed drift counts as known
    error = math.sqrt(variance)
    return Effect(float(logs[1].mean() - logs[0].mean()), error, degrees, error)
