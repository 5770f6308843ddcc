"""Shares of requests that failed, or that kept all objectives: how many of each side, and the difference of the two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nexus_tasks.comparison.effects import DRIFT_DEGREES
from nexus_tasks.comparison.estimates import batch_sums
from nexus_tasks.comparison.levels import Level
from nexus_tasks.comparison.quantities import FAILED, Quantity
from nexus_tasks.stats import bootstrap
from nexus_tasks.stats.bootstrap import Floats
from nexus_tasks.stats.metrics import parse
from nexus_tasks.stats.proportions import wilson
from nexus_tasks.stats.slo import meets


@dataclass(frozen=True)
class Share:
    """Share of the tried requests of a run that failed, or were good.

    ``independent`` is how many requests that have nothing to do with one another would say as much; ``drift`` the
    deviation of the share from one run to the next that is assumed, and ``by_round`` the share in each round.
    """

    value: float
    tried: int
    independent: float
    drift: float
    by_round: Mapping[int, float]


@dataclass(frozen=True)
class Difference:
    """Two shares, and the confidence interval of their difference, from 0 to 1."""

    first: float
    second: float
    low: float
    high: float


def share(level: Level, quantity: Quantity, slo: Mapping[str, float]) -> Share:
    """The share of a level's tried requests: FAILED, or GOODPUT by the limits of ``slo``."""

    def hits(part: Level, drifted: int = 0) -> Floats:
        """1 for each request that is counted, else 0, where the machine is so many deviations slower."""
        if quantity == FAILED:
            return np.array([not row.ok for row in part.rows], dtype=np.float64)
        limits = {name: limit / (1 + drifted * _drift_percent(name) / 100) for name, limit in slo.items()}
        return np.array([meets(row, limits) for row in part.rows], dtype=np.float64)

    counted = hits(level)
    value = float(counted.mean())
    # Failures and slow answers come in bursts: a burst says as much as a few requests.
    left = batch_sums(level, counted - value)
    alone = value * (1 - value) * len(counted)
    bunched = float((left**2).sum()) * len(left) / (len(left) - 1) / alone if alone and len(left) > 1 else 1.0
    drift = 0.0 if quantity == FAILED else float(hits(level, -1).mean() - hits(level, 1).mean()) / 2
    by_round = {number: float(hits(part).mean()) for number, part in level.rounds().items()}
    return Share(value, len(counted), len(counted) / max(1.0, bunched), drift, by_round)


def difference(a: Sequence[Share], b: Sequence[Share], confidence: float, *, interleaved: bool) -> Difference:
    """B less A: the confidence interval of their difference is Newcombe's, made of Wilson's, and what drifts."""
    first, second = (sum(one.value * one.tried for one in side) / sum(one.tried for one in side) for side in (a, b))
    low_a, high_a = wilson(first, sum(one.independent for one in a), confidence)
    low_b, high_b = wilson(second, sum(one.independent for one in b), confidence)
    error, degrees = _error(a, b, interleaved=interleaved)
    drifted = bootstrap.t_quantile((1 + confidence) / 2, degrees) * error
    join = max if interleaved or len(a) + len(b) > 2 else math.hypot
    low = max(-1.0, second - first - join(math.hypot(second - low_b, high_a - first), drifted))
    high = min(1.0, second - first + join(math.hypot(high_b - second, first - low_a), drifted))
    return Difference(first, second, low, high)


def _drift_percent(objective: str) -> float:
    metric, statistic = parse(objective)
    return metric.tolerance_of(statistic or "median").drift_percent


def _error(a: Sequence[Share], b: Sequence[Share], *, interleaved: bool) -> tuple[float, float]:
    """The error of the difference of two shares by what drifts, and its degrees of freedom.

    Of two runs that is the assumed drift alone. Between rounds and repeats counting differs, too, and is contained.
    """
    if interleaved:
        first, second = a[0].by_round, b[0].by_round
        apart = np.array([second[number] - first[number] for number in first if number in second])
        if len(apart) < 2:
            return 0.0, math.inf
        return float(apart.std(ddof=1)) / math.sqrt(len(apart)), len(apart) - 1
    drift = float(np.mean([one.drift**2 for one in (*a, *b)]))
    each = 1 / len(a) + 1 / len(b)
    repeats = len(a) + len(b) - 2
    if not repeats:
        return math.sqrt(drift * each), math.inf
    counting = float(np.mean([one.value * (1 - one.value) / one.independent for one in (*a, *b)]))
    measured = sum(float(np.var([one.value for one in side])) * len(side) for side in (a, b))
    degrees = DRIFT_DEGREES + repeats
    return math.sqrt((DRIFT_DEGREES * (drift + counting) + measured) / degrees * each), degrees
