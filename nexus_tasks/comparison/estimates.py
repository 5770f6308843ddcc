"""Estimates: a quantity of one side at one level of load, and how sure the run itself makes it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nexus_tasks.comparison.levels import Level, points
from nexus_tasks.comparison.quantities import THROUGHPUT, Quantity
from nexus_tasks.stats import bootstrap
from nexus_tasks.stats.metrics import STATISTICS

BATCHES = 30
"""Requests that followed one another are drawn together, in so many batches: what moves slowly doesn't hide."""
FEW = 6
"""Below this many requests an error comes from their deviation, not from the bootstrap."""
TAIL_POINTS = 5
"""So many points must lie beyond a p95 or p99, or it is not judged."""
MEDIAN_ERROR = math.sqrt(math.pi / 2)
"""By how much a median of normal points is less certain than their mean."""


@dataclass(frozen=True)
class Estimate:
    """A figure, and the standard error of its logarithm (with its degrees of freedom) as the run itself shows it."""

    value: float
    error: float
    degrees: float


def figure(level: Level, quantity: Quantity) -> float | None:
    """The quantity of a level, without an error; None where it has none or is not above 0."""
    if quantity == THROUGHPUT:
        measured = [row.throughput.output_tps for row in level.stages if row.throughput]
        known = [float(value) for value in measured if value]
        return sum(known) / len(known) if known else None
    values, _ = points(level, quantity.metric)
    rank = STATISTICS[quantity.statistic] or 0.5
    if not len(values) or (quantity.is_tail and round(len(values) * (1 - rank), 6) < 1):
        return None  # a p95 of fewer than 20 points would be the largest under another name
    value = bootstrap.quantile(np.sort(values), rank)
    return value if value > 0 else None


def is_thin(level: Level, quantity: Quantity) -> bool:
    """True if too few points lie in a tail to judge it."""
    values, _ = points(level, quantity.metric)
    return len(values) * (1 - (STATISTICS[quantity.statistic] or 0.5)) < TAIL_POINTS


def estimate(level: Level, quantity: Quantity) -> Estimate | None:
    """The quantity of a level with its error; None where there are too few points for one."""
    value = figure(level, quantity)
    if value is None:
        return None
    if quantity == THROUGHPUT:
        return _throughput_error(level, value)
    values, sizes = points(level, quantity.metric)
    if len(sizes) < FEW:
        if quantity.statistic != "median" or len(values) < 2 or values.min() <= 0:
            return None
        error = MEDIAN_ERROR * float(np.log(values).std(ddof=1)) / math.sqrt(len(values))
        return Estimate(value, error, len(values) - 1)
    batches = batch_sums(level, sizes)
    degrees = len(batches) - 1
    bounds = bootstrap.intervals(values, batches, (quantity.statistic,))[quantity.statistic]
    if bounds is None or bounds[0] <= 0:
        return None
    error = math.log(bounds[1] / bounds[0]) / 2 / bootstrap.t_quantile(0.975, degrees)
    return Estimate(value, error, degrees)


def lost_at_the_ends(level: Level) -> float:
    """The share of the throughput that is lost at the most while the load begins and ends.

    Fewer than all users are at work then, for as long as one request: the more requests, the less it weighs.
    """
    return level.users / (level.users + len(level.rows))


def batch_sums(level: Level, of_requests: NDArray[Any]) -> NDArray[Any]:
    """Sums over requests that followed one another; those in flight together share a moment, and so a batch."""
    most = max(FEW, len(of_requests) // level.users)
    return np.array([batch.sum() for batch in np.array_split(of_requests, min(len(of_requests), BATCHES, most))])


def _throughput_error(level: Level, value: float) -> Estimate | None:
    """Throughput is tokens over time spent on requests: its error is that of the ratio, by batches of requests."""
    good = [row for row in level.rows if row.ok and row.output_tokens]
    if len(good) < FEW:
        return None
    tokens = np.array([row.output_tokens for row in good], dtype=np.float64)
    spent = np.array([row.total_ms for row in good], dtype=np.float64)
    left = tokens - tokens.sum() / spent.sum() * spent
    batches = batch_sums(level, left)
    error = math.sqrt(float((batches**2).sum()) * len(batches) / (len(batches) - 1)) / float(tokens.sum())
    return Estimate(value, error, len(batches) - 1)
