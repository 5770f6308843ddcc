"""Registry of metrics: what each is called, in which unit it is, which direction is better, and what a change means.

    metrics.METRICS["ttft_ms"].title                 "Time to first token"
    metrics.OF_REQUESTS["itl_ms"].with_unit          "ITL, ms"
    metrics.parse("itl_p95_ms")                      (metrics.ITL, "p95")
    metrics.parse("itl_ms")                          (metrics.ITL, None)

Keys are those of records (docs/records.md), of ``--slo``, ``--until`` and ``--margin``, and of the columns of exports.
Their last part is the unit, and the name of a statistic stands before it. A new metric is added here, and to the rows
that have it.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from nexus_tasks.core.errors import UsageError

STATISTICS: Mapping[str, float | None] = {
    "mean": None,
    "median": 0.5,
    "p90": 0.9,
    "p95": 0.95,
    "p99": 0.99,
    "max": 1.0,
}
"""Name of a statistic -> its quantile; None is the mean."""


class Source(enum.Enum):
    """Source of the points of a metric."""

    REQUEST = "the key of a request's row: one point a request"
    GAPS = "the key of a request's row: a list, of one point a gap between two tokens"
    THROUGHPUT = "the key in the throughput of a level of load: one point a level"
    SHARE = "derived: the share of the requests that were tried"


@dataclass(frozen=True)
class Tolerance:
    """The changes of a figure that mean nothing, in per cent of it; of shares in percentage points.

    margin_percent   the equivalence margin: changes within it matter to nobody
    drift_percent    the standard deviation from one run to the next that is assumed until repeats show it
    """

    margin_percent: float
    drift_percent: float


SPEED = Tolerance(3, 0.7)
TIME = Tolerance(5, 1.5)
TAIL = Tolerance(10, 3)


@dataclass(frozen=True)
class Metric:
    """Something that is measured of requests or of a level of load."""

    key: str
    title: str
    """For headings and axes: ``Time to first token``."""
    label: str
    """Name where there is little room, and within sentences: ``TTFT``, ``decode``."""
    unit: str
    better: Literal["lower", "higher"]
    tolerance: Tolerance
    """Of its median, or of the only figure that it has."""
    source: Source = Source.REQUEST
    slo_names: tuple[str, ...] = ()
    """Statistic that ``--slo`` may bound within a request."""
    slo_label: str = ""
    """In objectives, where the label says too little."""

    @property
    def higher_is_better(self) -> bool:
        return self.better == "higher"

    @property
    def heading(self) -> str:
        """The label, as the heading of a column: ``TTFT``, ``Decode``."""
        return self.label[:1].upper() + self.label[1:]

    @property
    def with_unit(self) -> str:
        """``decode, tokens/s``."""
        return f"{self.label}, {self.unit}"

    def tolerance_of(self, statistic: str) -> Tolerance:
        """The tolerance of one of its statistics: the slowest few drift more than what is typical."""
        return TAIL if statistic in ("p90", "p95", "p99", "max") else self.tolerance

    def name_of(self, statistic: str) -> str:
        """Name that :func:`parse` reads: ``itl_p95_ms``; of medians, and of metrics that have one figure, the key."""
        if statistic == "median" or self.source not in _WITH_POINTS:
            return self.key
        stem, _, unit = self.key.rpartition("_")
        return f"{stem}_{statistic}_{unit}"


_WITH_POINTS = (Source.REQUEST, Source.GAPS)

TTFT = Metric("ttft_ms", "Time to first token", "TTFT", "ms", "lower", TIME, slo_names=("ttft_ms",))
TTFT_VISIBLE = Metric(
    "ttft_visible_ms",
    "Time to first visible token",
    "visible TTFT",
    "ms",
    "lower",
    TIME,
    slo_names=("ttft_visible_ms",),
)
ITL = Metric(
    "itl_ms", "Inter-token latency", "ITL", "ms", "lower", SPEED, Source.GAPS,
    slo_names=("itl_median_ms", "itl_p90_ms", "itl_p95_ms", "itl_p99_ms", "itl_max_ms"),
)  # fmt: skip
TPOT = Metric("tpot_ms", "Time per output token", "TPOT", "ms", "lower", SPEED, slo_names=("tpot_ms",))
TOTAL = Metric(
    "total_ms", "Whole request", "request", "ms", "lower", TIME, slo_names=("total_ms",), slo_label="whole request"
)
QUEUE = Metric("queue_ms", "TTFT that was not prefill", "queue", "ms", "lower", TIME, slo_names=("queue_ms",))
LATE = Metric("late_ms", "Sent too late", "sent late", "ms", "lower", TIME)
DECODE = Metric("decode_tps", "Decode rate of a request", "decode", "tokens/s", "higher", SPEED)
PREFILL = Metric("prefill_tps", "Prefill rate (server)", "prefill", "tokens/s", "higher", SPEED)
OUTPUT = Metric("output_tps", "Output", "throughput", "tokens/s", "higher", SPEED, Source.THROUGHPUT)
REQUESTS = Metric("requests_per_s", "Requests", "requests", "requests/s", "higher", SPEED, Source.THROUGHPUT)
FAILED = Metric("failed", "Failed requests", "failed", "%", "lower", Tolerance(1, 0), Source.SHARE)
GOODPUT = Metric(
    "goodput", "Requests that kept all objectives", "goodput", "%", "higher", Tolerance(2, 0), Source.SHARE
)

METRICS: Mapping[str, Metric] = {
    metric.key: metric
    for metric in (
        TTFT, TTFT_VISIBLE, ITL, TPOT, TOTAL, QUEUE, LATE, DECODE, PREFILL, OUTPUT, REQUESTS, FAILED, GOODPUT,
    )
}  # fmt: skip
"""All metrics by key."""
OF_REQUESTS: Mapping[str, Metric] = {key: one for key, one in METRICS.items() if one.source in _WITH_POINTS}
"""Those that have points, and so statistics: the ``metrics`` of a summary, in its order."""
MAIN: tuple[Metric, ...] = (TTFT, ITL, TOTAL, DECODE, PREFILL)
"""Those that each overview has."""
SLO_NAMES: tuple[str, ...] = tuple(
    name for source in _WITH_POINTS for one in METRICS.values() if one.source is source for name in one.slo_names
)
"""Names that ``--slo`` takes: first those of which each request has one value."""


def parse(name: str, statistics: Collection[str] = tuple(STATISTICS)) -> tuple[Metric, str | None]:
    """The metric and the statistic that a name means: ``itl_p95_ms`` is the p95 of ``itl_ms``.

    Args:
        name: a key of OF_REQUESTS, or one with a statistic before its unit.
        statistics: those that may be named.

    Returns:
        The statistic is None where the name has none: ``itl_ms``.

    Raises:
        UsageError: there is no such metric or statistic.
    """
    if name in OF_REQUESTS:
        return OF_REQUESTS[name], None
    stem, _, unit = name.rpartition("_")
    base, _, statistic = stem.rpartition("_")
    key = f"{base}_{unit}"
    if key in OF_REQUESTS and statistic in statistics:
        return OF_REQUESTS[key], statistic
    raise UsageError(
        f"there is no metric {name!r}",
        hint=f"use {', '.join(OF_REQUESTS)}, or one with {', '.join(statistics)} inside, as in itl_p95_ms",
    )
