"""Shares of counts, with the confidence interval that is right for few as for many: Wilson's.

low, high = proportions.wilson(0.95, of=200)
"""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson(share: float, of: float, confidence: float = 0.95) -> tuple[float, float]:
    """The confidence interval of a share (0-1) that was found among ``of`` independent ones (Wilson 1927).

    It is within 0 and 1, and says something where none or all were found. ``of`` is more than zero.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    z2 = z * z
    middle, half = share + z2 / (2 * of), z * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of))
    return max(0.0, (middle - half) / (1 + z2 / of)), min(1.0, (middle + half) / (1 + z2 / of))
