"""Service level objectives: limits that a good request keeps (``--slo``).

limits = slo.limits(["ttft_ms=500", "itl_p95_ms=50"])
slo.meets(row, limits)                                  whether a request succeeded and kept them all
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from nexus_tasks.core.errors import UsageError
from nexus_tasks.records.benchmark_rows import RequestRow
from nexus_tasks.stats import metrics
from nexus_tasks.stats.metrics import SLO_NAMES, Source


def limits(texts: Iterable[str]) -> dict[str, float]:
    """The limits, in ms, that options like ``ttft_ms=500`` and ``itl_p95_ms=50`` set.

    Raises:
        UsageError: a name that no request has a value for, or a limit that is no number above 0.
    """
    by_name: dict[str, float] = {}
    for text in texts:
        name, _, limit = text.partition("=")
        if name not in SLO_NAMES:
            raise UsageError(
                f"--slo {text}: the name must be of a latency that requests have, not {name!r}",
                hint=f"use {', '.join(SLO_NAMES)}",
            )
        try:
            by_name[name] = float(limit)
        except ValueError:
            by_name[name] = math.nan
        if not 0 < by_name[name] < math.inf:
            raise UsageError(f"--slo {text}: the limit must be a number above 0", hint=f"write --slo {name}=500, in ms")
    return by_name


def value(row: RequestRow, name: str) -> float | None:
    """The value of a request that an objective bounds: its own ``ttft_ms``, for ``itl_p95_ms`` the p95 of its gaps.

    Returns:
        None where the request has no such value.

    Raises:
        UsageError: there is no such metric.
    """
    metric, statistic = metrics.parse(name)
    points = getattr(row, metric.key)
    if metric.source is not Source.GAPS:
        return None if points is None else float(points)
    if points is None or not len(points):
        return None
    rank = metrics.STATISTICS[statistic or "median"]
    return float(np.mean(points) if rank is None else np.quantile(points, rank))


def meets(row: RequestRow, limits: Mapping[str, float]) -> bool:
    """True if a request succeeded and kept every objective; one without the value didn't, but for gaps."""
    if not row.ok:
        return False
    for name, limit in limits.items():
        shown = value(row, name)
        if shown is None and metrics.parse(name)[0].source is Source.GAPS:
            continue  # of a single token: it has no gaps to be slow in
        if shown is None or shown > limit:
            return False
    return True
