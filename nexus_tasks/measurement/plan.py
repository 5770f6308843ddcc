"""Plans: a workload, the load under which it is asked, and when it is enough."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from nexus_tasks.load.requests import Limits, Stage
from nexus_tasks.workloads.workload import Spec

SWEEP_REQUESTS = 4
"""Requests of each user at a level of a sweep, unless told otherwise."""


@dataclass(frozen=True)
class Sweep:
    """Levels that are found as it goes: ``axis`` is concurrency or rate_per_s, ``first`` and ``max_level`` bound it."""

    axis: str
    first: float
    max_level: float


@dataclass(frozen=True)
class Plan:
    """A workload and the load under which it is asked. Lengths in tokens.

    ``stages`` are the levels of load, one after another; a sweep has one, which is the pattern of all. ``axis`` says
    what differs between them. ``until`` ends a stage when the 95 % confidence interval of a metric's median is within
    so many per cent of it. ``rounds`` is for interleaved runs.
    """

    spec: Spec
    stages: tuple[Stage, ...]
    axis: str | None = None
    sweep: Sweep | None = None
    limits: Limits = field(default_factory=Limits)
    slo: Mapping[str, float] = field(default_factory=dict)
    until: tuple[str, float] | None = None
    processes: int | None = None
    rounds: int = 1
    tag: str | None = None

    @property
    def requests(self) -> int:
        """Those that count, of the first stage; 1 where a duration bounds it."""
        return self.stages[0].requests or 1


def at_level(pattern: Stage, axis: str, level: float) -> Stage:
    """The stage of a sweep's level. ``axis`` is concurrency or rate_per_s."""
    if axis == "rate_per_s":
        return dataclasses.replace(pattern, rate_per_s=level)
    users = int(level)
    requests = None if pattern.duration_s else (pattern.requests or SWEEP_REQUESTS) * users
    # The first wave finds the server empty: it doesn't count.
    return dataclasses.replace(pattern, concurrency=users, requests=requests, warmup=max(pattern.warmup, users))
