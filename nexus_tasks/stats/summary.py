"""Summaries of measurements: the one place that turns points and request rows into figures.

summarise([12.1, 12.4, 12.2])      Figures(n=3, min=12.1, ..., p90=None, points=[12.1, 12.4, 12.2], ci=Intervals(...))

collector = Collector(slo={"ttft_ms": 500, "itl_p95_ms": 50})
for row in rows:
    collector.add(row)                            # as requests end
collector.figures(window_s=60.0).throughput.output_tps
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from nexus_tasks.records.benchmark_rows import Figures, Goodput, Intervals, Measured, RequestRow, Throughput
from nexus_tasks.stats import bootstrap
from nexus_tasks.stats.bootstrap import Floats, Integers
from nexus_tasks.stats.metrics import ITL, OF_REQUESTS
from nexus_tasks.stats.slo import meets

PERCENTILES = (90, 95, 99)
ENOUGH_FOR_PERCENTILES = 20
"""Below this many points a p95 is one of the two largest values: the points themselves say more."""
IN_INTERVALS = ("median", "mean", "p95", "p99")

KEPT_GAPS = 2_000_000


def summarise(points: Sequence[float] | Floats, groups: Sequence[int] | Integers | None = None) -> Figures | None:
    """The figures of one metric, in the unit of the points; None when there are no points.

    Args:
        points: the measurements; where requests have several, those of one beside one another.
        groups: how many points each request has (default: one).

    Returns:
        ``stdev`` is that of the sample (None for one point). Percentiles are by linear interpolation between the
        nearest points (None below 20 points). ``points`` are in the order measured (None from 20 points on). ``ci`` is
        by :func:`bootstrap.intervals` (None where there are too few points).
    """
    values = np.asarray(points, dtype=np.float64)
    if not len(values):
        return None
    sizes = np.ones(len(values), dtype=np.int64) if groups is None else np.asarray(groups, dtype=np.int64)
    ordered = np.sort(values)
    enough = len(values) >= ENOUGH_FOR_PERCENTILES
    names = IN_INTERVALS if enough else IN_INTERVALS[:2]
    intervals = bootstrap.intervals(values, sizes, names, ordered=ordered)
    within = {name: list(bounds) if (bounds := intervals.get(name)) else None for name in IN_INTERVALS}
    p90, p95, p99 = (bootstrap.quantile(ordered, rank / 100) if enough else None for rank in PERCENTILES)
    return Figures(
        n=len(values),
        min=float(ordered[0]),
        max=float(ordered[-1]),
        mean=math.fsum(values) / len(values),
        median=bootstrap.quantile(ordered, 0.5),
        stdev=float(values.std(ddof=1)) if len(values) > 1 else None,
        p90=p90,
        p95=p95,
        p99=p99,
        points=None if enough else values.tolist(),
        ci=Intervals(**within),
    )


class Collector:
    """Takes request rows (docs/records.md) one by one, and knows what they come to.

    Figures are of requests that succeeded in phase ``run``; ``requests``, ``failed`` and ``short`` count all phases. Of
    a request only numbers are kept. Up to KEPT_GAPS gaps between tokens (16 MB) are kept; when there are more, every
    second one goes at random, and percentiles are those of the rest, which is exact to a thousandth part of the gaps.
    ``n``, ``min``, ``max``, ``mean`` and ``stdev`` stay those of all.

    Args:
        slo: limits in ms that a good request keeps, by name, as :func:`nexus_tasks.stats.slo.limits` gives them.
        kept_gaps: how many gaps to keep.
    """

    def __init__(self, slo: Mapping[str, float] | None = None, *, kept_gaps: int = KEPT_GAPS) -> None:
        self.requests = 0
        self.failed = 0
        self.short = 0
        self.stalls = 0
        self.next_look = 0
        self.counted = 0
        """Number of requests that the figures are made of."""
        self._slo = dict(slo or {})
        self._good = 0
        self._tried = 0
        self._tokens = {"output": 0, "prompt": 0}
        self._has_output = self._has_prompt = False
        self._points = {name: array("d") for name in OF_REQUESTS}
        self._sizes = array("q")
        self._kept_gaps = kept_gaps
        self._share = 1.0
        self._rng = np.random.default_rng(bootstrap.SEED)
        self._all_gaps = _Moments()

    @property
    def output_tokens(self) -> int:
        """Tokens of the answers that the figures are made of."""
        return self._tokens["output"]

    def add(self, row: RequestRow) -> None:
        """Take one request, of any phase."""
        self.requests += 1
        self.failed += not row.ok
        self.short += row.error is not None and row.error.kind == "short"
        if row.phase != "run":
            return
        self._tried += 1
        self.stalls += row.stalls
        if not row.ok:
            return
        self.counted += 1
        self._good += meets(row, self._slo)
        output = row.output_tokens
        self._has_output |= output is not None
        self._tokens["output"] += output or 0
        self._has_prompt |= row.prompt_tokens is not None
        # Prompt tokens from the cache are no work that was done.
        self._tokens["prompt"] += max(0, (row.prompt_tokens or 0) - (row.cached_tokens or 0))
        for name, points in self._points.items():
            if name != ITL.key and (value := getattr(row, name)) is not None:
                points.append(value)
        self._add_gaps(row.itl_ms)

    def points(self, metric: str, most: int | None = None) -> tuple[Floats, Integers]:
        """The points of a metric in the order they came, and how many of them each request has.

        Args:
            metric: one of OF_REQUESTS.
            most: gaps are thinned at random to about this many.
        """
        values = np.array(self._points[metric], dtype=np.float64)
        if metric != ITL.key:
            return values, np.ones(len(values), dtype=np.int64)
        sizes = np.array(self._sizes, dtype=np.int64)
        if most is None or len(values) <= most:
            return values, sizes
        return _thin(values, sizes, most / len(values), self._rng)

    def figures(self, window_s: float) -> Measured:
        """All that a stage row or a summary says about its requests.

        Args:
            window_s: how long requests counted, in seconds.

        Returns:
            ``metrics`` are those of OF_REQUESTS; ``goodput`` is None without objectives.
        """
        metrics = {name: summarise(*self.points(name)) for name in OF_REQUESTS}
        gaps = metrics[ITL.key]
        if gaps and self._share < 1:
            metrics[ITL.key] = msgspec.structs.replace(gaps, **self._all_gaps.figures())
        prompt, output = self._tokens["prompt"], self._tokens["output"]
        has_prompt = self._has_prompt or not self.counted
        goodput = None
        if self._slo:
            share = self._good / self._tried if self._tried else None
            goodput = Goodput(requests_per_s=_per_second(self._good, window_s), share=share)
        return Measured(
            metrics=metrics,
            throughput=Throughput(
                output_tps=_per_second(output, window_s) if self._has_output else None,
                requests_per_s=_per_second(self.counted, window_s),
                prompt_tps=_per_second(prompt, window_s) if has_prompt else None,
                total_tps=_per_second(prompt + output, window_s) if has_prompt else None,
            ),
            goodput=goodput,
            requests=self.requests,
            failed=self.failed,
            short=self.short,
            stalls=self.stalls,
        )

    def _add_gaps(self, gaps_ms: list[float]) -> None:
        if not gaps_ms:
            return
        kept = self._points[ITL.key]
        before = len(kept)
        if self._share < 1:  # at random: every second gap in turn would miss what has a rhythm
            gaps = np.array(gaps_ms)
            self._all_gaps.add(gaps)
            kept.frombytes(gaps[self._rng.random(len(gaps)) < self._share].tobytes())
        else:
            kept.fromlist(gaps_ms)
        self._sizes.append(len(kept) - before)
        if len(kept) > self._kept_gaps:
            if self._share == 1:
                self._all_gaps.add(np.array(kept))  # as long as all are kept, they say the same themselves
            self._share /= 2
            values, sizes = _thin(np.array(kept), np.array(self._sizes, dtype=np.int64), 0.5, self._rng)
            self._points[ITL.key] = array("d", values.tobytes())
            self._sizes = array("q", sizes.tobytes())


class _Moments:
    """Number, bounds, mean and deviation of points that are not kept (Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        self._n = 0
        self._mean = self._squares = 0.0
        self._min, self._max = math.inf, -math.inf

    def add(self, points: Floats) -> None:
        n, mean = len(points), float(points.mean())
        apart = mean - self._mean
        together = self._n + n
        self._squares += float(((points - mean) ** 2).sum()) + apart * apart * self._n * n / together
        self._mean += apart * n / together
        self._n = together
        self._min = min(self._min, float(points.min()))
        self._max = max(self._max, float(points.max()))

    def figures(self) -> dict[str, float | None]:
        return {
            "n": self._n,
            "min": self._min,
            "max": self._max,
            "mean": self._mean,
            "stdev": math.sqrt(self._squares / (self._n - 1)) if self._n > 1 else None,
        }


def of_requests(rows: Iterable[RequestRow], *, slo: Mapping[str, float] | None = None, window_s: float) -> Measured:
    """The figures of rows that are all there; as :meth:`Collector.figures`."""
    collector = Collector(slo)
    for row in rows:
        collector.add(row)
    return collector.figures(window_s)


def _thin(values: Floats, sizes: Integers, share: float, rng: np.random.Generator) -> tuple[Floats, Integers]:
    """A random part of the points, and how many of them each request still has."""
    keep = rng.random(len(values)) < share
    owners = np.repeat(np.arange(len(sizes)), sizes)
    return values[keep], np.bincount(owners[keep], minlength=len(sizes))


def _per_second(count: float, window_s: float) -> float | None:
    return count / window_s if window_s > 0 else None
