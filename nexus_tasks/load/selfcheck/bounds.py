"""The bounds that the load generator has to keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
    for concurrency, both in figures["ceiling"].items():
        results.append(
            Check(f"streaming at {concurrency}, tokens per CPU-s", both["load"]["streaming_per_cpu_s"], 150_000)
        )
        results.append(
            Check(f"evaluated at {concurrency}, tokens per CPU-s", both["load"]["evaluated_per_cpu_s"], 100_000)
        )
    paced = figures["paced"]
    share = paced["load"]["tokens_per_s"] / paced["bare"]["tokens_per_s"]
    results.append(Check("paced, share of what bare C sustains", share, 0.97))
    results.append(Check("paced, tokens per CPU-s", paced["load"]["streaming_per_cpu_s"], 90_000))
    results.append(Check("errors in 10,000 requests at 256", figures["many"]["errors"], 0, at_most=True))
    growth = figures["memory"]["peak_mib"] / figures["memory"]["early_mib"]
    results.append(Check("memory, peak over what it was after a tenth", growth, 1.5, at_most=True))
    results.append(Check("start, CPU-s", figures["startup_cpu_s"], 2.0, at_most=True))
    return results
