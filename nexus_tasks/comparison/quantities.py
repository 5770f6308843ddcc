"""Quantities that comparisons judge: statistics of the metrics of :mod:`nexus_tasks.stats.metrics`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from nexus_tasks.core.errors import UsageError
from nexus_tasks.stats import metrics
from nexus_tasks.stats.metrics import Metric, Source

TAILS = ("p95", "p99")


@dataclass(frozen=True)
class Quantity:
    """One statistic of a metric. ``statistic`` is ``ratio`` of throughput, and ``share`` of shares of requests."""

    metric: Metric
    statistic: str

    @property
    def name(self) -> str:
        """As it is written in options and JSON: ``decode_tps``, ``itl_p99_ms``."""
        return self.metric.name_of(self.statistic)

    @property
    def label(self) -> str:
        """For people: ``decode, tokens/s``, ``ITL p99, ms``; of shares without a unit."""
        if self.is_share:
            return self.metric.label
        tail = f" {self.statistic}" if self.is_tail else ""
        return f"{self.metric.label}{tail}, {self.metric.unit}"

    @property
    def is_share(self) -> bool:
        """True for a share of the requests: its changes are percentage points."""
        return self.metric.source is Source.SHARE

    @property
    def is_tail(self) -> bool:
        """True for a statistic of the slowest few: without enough of them it is not judged at all."""
        return self.statistic in TAILS

    @property
    def higher_is_better(self) -> bool:
        return self.metric.higher_is_better

    @property
    def margin_percent(self) -> float:
        """The equivalence margin: changes within it matter to nobody."""
        return self.metric.tolerance_of(self.statistic).margin_percent

    @property
    def drift_percent(self) -> float:
        """The deviation from one run to the next that is assumed until repeats show it."""
        return self.metric.tolerance_of(self.statistic).drift_percent


DECODE = Quantity(metrics.DECODE, "median")
THROUGHPUT = Quantity(metrics.OUTPUT, "ratio")
TTFT = Quantity(metrics.TTFT, "median")
TTFT_P95 = Quantity(metrics.TTFT, "p95")
ITL_P99 = Quantity(metrics.ITL, "p99")
PREFILL = Quantity(metrics.PREFILL, "median")
TOTAL = Quantity(metrics.TOTAL, "median")
FAILED = Quantity(metrics.FAILED, "share")
GOODPUT = Quantity(metrics.GOODPUT, "share")
QUANTITIES = (DECODE, THROUGHPUT, TTFT, TTFT_P95, ITL_P99, PREFILL, TOTAL, FAILED, GOODPUT)
"""All that is judged, in the order of a comparison's table."""


def margins(texts: Iterable[str]) -> dict[str, float]:
    """The equivalence margins, in per cent, that options like ``decode_tps=1`` set.

    Raises:
        UsageError: there is no such quantity, or the margin is no number above 0.
    """
    by_name = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in {quantity.name for quantity in QUANTITIES}:
            known = ", ".join(quantity.name for quantity in QUANTITIES)
            raise UsageError(
                f"--margin {text}: the name must be of a quantity that is judged, not {name!r}", hint=f"use {known}"
            )
        try:
            by_name[name] = float(value)
        except ValueError:
            by_name[name] = math.nan
        if not 0 < by_name[name] < math.inf:
            raise UsageError(
                f"--margin {text}: the margin must be a number above 0", hint=f"write --margin {name}=2, in per cent"
            )
    return by_name
