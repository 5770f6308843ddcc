"""The bounds that the load generator has to keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PACED = "64 x 1,000/s"
"""The streams that come at a pace, which a client can keep or not."""
MIN_STREAMING, MIN_EVALUATED, MIN_PACED = 0.7, 0.35, 0.97
"""Shares of what bare C does in the same run: tokens per second of CPU of the processes that send, the same with
evaluation and record, and tokens per second of the streams that come at a pace."""


@dataclass(frozen=True)
class Check:
    """A figure and the bound it has to keep; ``at_most`` False means at least."""

    name: str
    value: float
    bound: float
    at_most: bool = False

    @property
    def ok(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound


def checks(figures: Mapping[str, Any]) -> list[Check]:
    """The figures beside the bounds that the load generator has to keep."""
    results = []
    for row in figures["errors"]:
        bound = 0.5 if row["concurrency"] > 16 else 0.3
        for metric in ("ttft", "itl"):
            name = f"{metric.upper()} error at {row['concurrency']}, ms"
            results.append(Check(f"{name}, median", row[f"{metric}_median_ms"], bound, at_most=True))
            results.append(Check(f"{name}, p99", row[f"{metric}_p99_ms"], 3.0, at_most=True))
    for name, both in figures["costs"].items():
        of_bare = both["share"]
        results.append(Check(f"{name}, streaming, of bare C", of_bare["streaming_per_cpu_s"], MIN_STREAMING))
        results.append(Check(f"{name}, with record, of bare C", of_bare["evaluated_per_cpu_s"], MIN_EVALUATED))
    paced = figures["costs"][PACED]["share"]["tokens_per_s"]
    results.append(Check(f"{PACED}, tokens per s, of bare C", paced, MIN_PACED))
    results.append(Check("errors in 10,000 requests at 256", figures["many"]["errors"], 0, at_most=True))
    growth = figures["memory"]["peak_mib"] / figures["memory"]["early_mib"]
    results.append(Check("memory, peak over what it was after a tenth", growth, 1.5, at_most=True))
    results.append(Check("start, CPU-s", figures["startup_cpu_s"], 2.0, at_most=True))
    return results
