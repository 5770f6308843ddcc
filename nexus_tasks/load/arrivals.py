"""Arrivals of an open loop: constant, Poisson or in bursts, whether or not answers came.

A closed loop needs no schedule: a request begins when a user has the answer to the one before.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from nexus_tasks.load.requests import Stage


def arrivals(stage: Stage) -> Iterator[float]:
    """The moments at which requests of an open loop are due, in seconds after the stage's begin; endless.

    While the rate grows from 0 to r over ramp_s, n requests are due after sqrt(2 n ramp_s / r) seconds.
    """
    rate, ramp_s = stage.rate_per_s or 1.0, stage.ramp_s
    chance = random.Random(stage.seed)  # noqa: S311 - arrivals, not secrets
    together = stage.burst or 1 if stage.mode == "burst" else 1
    due = 0.0  # in requests at the full rate
    for number in itertools.count():
        if stage.mode == "poisson":
            due += chance.expovariate(1.0)
        elif number:
            due += together
        in_ramp = rate * ramp_s / 2  # requests that begin in the ramp
        moment = (2 * due * ramp_s / rate) ** 0.5 if due < in_ramp else ramp_s + (due - in_ramp) / rate
        for _ in range(together):
            yield moment
