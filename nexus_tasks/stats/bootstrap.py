"""Confidence intervals by bootstrap, in which the points of one request stay together.

    bootstrap.interval([gaps of one request, gaps of the next, ...], "p95")    (11.8, 12.4), or None

Gaps between the tokens of one request are alike, for they share a moment, a place in the batch and a context. So
requests are drawn, not gaps. What is drawn are sums over requests, which takes milliseconds for a million gaps:

mean         the drawn requests' sum of points over their number of points
quantile     the drawn requests' share of points below the quantile; the interval of that share is carried back to the
             points (Woodruff 1952, for samples that come in clusters)

Intervals of few requests are widened as Student's t is wider than the normal distribution (Hesterberg 2015, "What
teachers should know about the bootstrap"). Of more than BLOCKS requests those that followed one another make that many
blocks, and blocks are drawn: that leaves the width as it is, to about 2 %, and wider where neighbours are alike.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nexus_tasks.stats.metrics import STATISTICS

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Interval = tuple[float, float]

CONFIDENCE = 0.95
RESAMPLES = 1000
BLOCKS = 1000
LEAST_GROUPS = 5
"""Fewer requests than this say nothing about how much requests differ."""
BOUNDED = ("mean", "median", "p90", "p95", "p99")
"""The statistics that have confidence intervals; nothing bounds a maximum."""
SEED = 20261122
"""Intervals of one record are the same whenever they are computed."""


def interval(
    groups: Sequence[Floats | Sequence[float]],
    statistic: str = "median",
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    rng: np.random.Generator | None = None,
) -> Interval | None:
    """The confidence interval of one statistic of all points together, by bootstrap.

    Args:
        groups: the points of each request, in any unit.
        statistic: one of BOUNDED.
        confidence: how often such intervals hold the true figure.
        resamples: how many times requests are drawn.
        rng: where chance comes from (default: the same draws every time).

    Returns:
        The interval in the unit of the points. None where there are fewer than LEAST_GROUPS requests, or too few to
        bound the statistic: a p95 needs about 100 independent points, a p99 about 450.
    """
    arrays = [np.asarray(group, dtype=np.float64) for group in groups]
    sizes = np.array([len(array) for array in arrays], dtype=np.int64)
    values = np.concatenate(arrays) if arrays else np.empty(0)
    by_statistic = intervals(values, sizes, (statistic,), confidence=confidence, resamples=resamples, rng=rng)
    return by_statistic[statistic]


def intervals(
    values: Floats,
    sizes: Integers,
    statistics: Sequence[str],
    *,
    ordered: Floats | None = None,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    rng: np.random.Generator | None = None,
) -> dict[str, Interval | None]:
    """The confidence intervals of several statistics, from the same draws.

    Args:
        values: all points, those of one request beside one another, shape (n,).
        sizes: how many of them belong to each request, shape (requests,).
        statistics: names from BOUNDED.
        ordered: ``values`` in ascending order, where the caller has them.
        confidence, resamples, rng: as in :func:`interval`.

    Returns:
        Each statistic's interval, or None as :func:`interval` gives it.
    """
    sizes = sizes[sizes > 0]
    if len(sizes) < LEAST_GROUPS:
        return dict.fromkeys(statistics)
    ordered = np.sort(values) if ordered is None else ordered
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    blocks = min(len(sizes), BLOCKS)
    dealt = np.arange(len(sizes)) * blocks // len(sizes)
    counts = _sums(sizes.astype(np.float64), dealt, blocks)
    weights = _usual_draw(blocks, resamples) if rng is None else _draw(blocks, resamples, rng)
    drawn_counts = weights @ counts
    wider = math.sqrt(blocks / (blocks - 1)) * t_quantile((1 + confidence) / 2, blocks - 1)
    wider /= NormalDist().inv_cdf((1 + confidence) / 2)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]

    def errors(of_requests: Floats) -> Interval:
        """By how much a ratio of sums over requests may be too high, and too low."""
        sums = _sums(of_requests, dealt, blocks)
        estimate = float(sums.sum() / counts.sum())
        low, high = np.quantile(weights @ sums / drawn_counts, tails)
        return (estimate - float(low)) * wider, (float(high) - estimate) * wider

    by_statistic: dict[str, Interval | None] = {}
    for name in statistics:
        rank = STATISTICS[name]
        if rank is None:
            too_high, too_low = errors(np.add.reduceat(values, starts))
            mean = float(values.mean())
            by_statistic[name] = (mean - too_high, mean + too_low)
            continue
        at = quantile(ordered, rank)
        # Points that are the quantile itself count half: without that, an odd number of points would lean to a side.
        below = np.add.reduceat((values < at).astype(np.float64) + (values <= at), starts) / 2
        too_high, too_low = errors(below)
        low_rank, high_rank = rank - too_low, rank + too_high
        bounded = low_rank >= 0 and high_rank <= 1
        by_statistic[name] = (quantile(ordered, low_rank), quantile(ordered, high_rank)) if bounded else None
    return by_statistic


def quantile(ordered: Floats, rank: float) -> float:
    """The quantile of points in ascending order, by linear interpolation between the nearest two."""
    position = rank * (len(ordered) - 1)
    before = int(position)
    after = min(before + 1, len(ordered) - 1)
    return float(ordered[before] + (ordered[after] - ordered[before]) * (position - before))


@functools.lru_cache(maxsize=1024)
def t_quantile(probability: float, degrees: float) -> float:
    """The quantile of Student's t, for a probability of at least one half; right to five digits up to 0.9999.

    With t = sqrt(degrees) tan(angle) its density is cos(angle) to the power of degrees - 1, which is summed up here.
    """
    if degrees > 1000:
        return NormalDist().inv_cdf(probability)
    angles = np.linspace(0, math.pi / 2, 20_001)
    density = np.cos(angles) ** (degrees - 1)
    below = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    angle = np.interp(2 * probability - 1, below / below[-1], angles)
    return math.sqrt(degrees) * math.tan(float(angle))


def _sums(values: Floats, dealt: NDArray[Any], blocks: int) -> Floats:
    return np.asarray(np.bincount(dealt, weights=values, minlength=blocks), dtype=np.float64)


@functools.lru_cache(maxsize=2)  # the metrics of one run have the same number of requests, and share a draw
def _usual_draw(blocks: int, resamples: int) -> Floats:
    return _draw(blocks, resamples, np.random.default_rng(SEED))


def _draw(blocks: int, resamples: int, rng: np.random.Generator) -> Floats:
    """Counts of each block in each resample, shape (resamples, blocks)."""
    drawn = rng.integers(0, blocks, size=(resamples, blocks)) + np.arange(resamples)[:, None] * blocks
    return np.bincount(drawn.ravel(), minlength=resamples * blocks).reshape(resamples, blocks).astype(np.float64)
