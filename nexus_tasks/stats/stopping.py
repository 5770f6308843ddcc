"""Stopping rule: a stage ends once a metric is known well enough (``--until``).

metric, percent = stopping.parse("itl_p95_ms:ci=2%")
stopping.enough(collector, metric, percent)             True once half of its confidence interval is at most 2 % of it
"""

from __future__ import annotations

import math
import re
from typing import Protocol

import numpy as np

from nexus_tasks.core.errors import UsageError
from nexus_tasks.stats import bootstrap, metrics
from nexus_tasks.stats.bootstrap import Floats, Integers

LOOK_AT_GAPS = 50_000
LOOK_RESAMPLES = 300
MIN_REQUESTS = 10
NEXT_LOOK = 1.1


class Measured(Protocol):
    """Interface of a collector for :func:`enough`. ``next_look`` is its to keep, and :func:`enough`'s to set."""

    next_look: int

    @property
    def counted(self) -> int:
        """Number of requests that the figures are made of."""

    def points(self, metric: str, most: int | None = None) -> tuple[Floats, Integers]:
        """The points of a metric, and how many of them each request has; at most ``most`` of them, drawn evenly."""


def parse(text: str) -> tuple[str, float]:
    """The metric and the per cent of ``ci=2%`` (of decode speed) or ``itl_p95_ms:ci=2%``, for :func:`enough`.

    Raises:
        UsageError: it is written otherwise, or there is no such metric.
    """
    match = re.fullmatch(r"(?:(?P<metric>\w+):)?ci=(?P<percent>\d+(?:\.\d+)?)%?", text)
    if not match or not float(match["percent"]):
        raise UsageError(
            f"--until must be ci=PERCENT or METRIC:ci=PERCENT, not {text}",
            hint="write --until ci=2%, or itl_p95_ms:ci=2%",
        )
    name = match["metric"] or metrics.DECODE.key
    metrics.parse(name, bootstrap.BOUNDED)
    return name, float(match["percent"])


def enough(collector: Measured, name: str, percent: float) -> bool:
    """True if a metric is known well enough: half of its 95 % confidence interval is at most ``percent`` of it.

    It is cheap, for it may be asked while requests are under way: a few milliseconds, and only looks again when a
    tenth more requests are there. A look can be lucky; seldom looking, and never at fewer than MIN_REQUESTS
    requests, keeps that rare.

    Args:
        collector: what was measured so far.
        name: a metric's, as :func:`nexus_tasks.stats.metrics.parse` takes it; without a statistic its median.
        percent: of the figure.

    Raises:
        UsageError: there is no such metric.
    """
    metric, statistic = metrics.parse(name, bootstrap.BOUNDED)
    statistic = statistic or "median"
    if collector.counted < max(collector.next_look, MIN_REQUESTS):
        return False
    collector.next_look = math.ceil(collector.counted * NEXT_LOOK)
    values, sizes = collector.points(metric.key, LOOK_AT_GAPS)
    if not len(values):
        return False
    ordered = np.sort(values)
    within = bootstrap.intervals(values, sizes, (statistic,), ordered=ordered, resamples=LOOK_RESAMPLES)[statistic]
    if within is None:
        return False
    rank = metrics.STATISTICS[statistic]
    figure = float(values.mean()) if rank is None else bootstrap.quantile(ordered, rank)
    return within[1] - within[0] <= 2 * percent / 100 * abs(figure)
