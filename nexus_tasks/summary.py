"""What a list of measurements comes to: the one place that turns points into summary figures.

summarise([12.1, 12.4, 12.2])  ->  {"n": 3, "min": 12.1, ..., "p90": None, "points": [12.1, 12.4, 12.2]}
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

PERCENTILES = (90, 95, 99)
ENOUGH_FOR_PERCENTILES = 20
"""Below this many points a p95 is one of the two largest values: the points themselves say more."""


def summarise(points: Sequence[float]) -> dict[str, Any] | None:
    """The figures of one metric, in the unit of the points; None when there are no points.

    Returns:
        ``n``, ``min``, ``max``, ``mean``, ``median``; ``stdev`` of the sample (None for one point); ``p90``,
        ``p95``, ``p99`` by linear interpolation between the nearest points (None below 20 points); ``points``
        in the order measured (None from 20 points on).
    """
    if not points:
        return None
    enough = len(points) >= ENOUGH_FOR_PERCENTILES
    percentiles = np.percentile(points, PERCENTILES).tolist() if enough else [None] * len(PERCENTILES)
    return {
        "n": len(points),
        "min": min(points),
        "max": max(points),
        "mean": statistics.fmean(points),
        "median": statistics.median(points),
        "stdev": statistics.stdev(points) if len(points) > 1 else None,
        **{f"p{rank}": value for rank, value in zip(PERCENTILES, percentiles, strict=True)},
        "points": None if enough else list(points),
    }
