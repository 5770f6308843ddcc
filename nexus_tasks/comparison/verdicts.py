"""Verdicts: whether one run is better or worse than another, and how sure that is.

    comparison = verdicts.judge([before], [after])
    [finding.verdict for finding in comparison.findings]     "better", "worse", "same" or "can't tell"

docs/compare.md says how it is judged, and simulation.py how often that is right.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

from nexus_tasks.comparison import comparable, effects, estimates, levels, shares
from nexus_tasks.comparison.comparable import names
from nexus_tasks.comparison.effects import Effect
from nexus_tasks.comparison.levels import Level
from nexus_tasks.comparison.quantities import DECODE, FAILED, GOODPUT, QUANTITIES, THROUGHPUT, TOTAL, Quantity
from nexus_tasks.core.errors import UsageError
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.stats import bootstrap

BETTER, WORSE, SAME, CANT_TELL = "better", "worse", "same", "can't tell"

CONFIDENCE = 0.95
"""Of all confidence intervals of one comparison together: each alone is wider (Bonferroni)."""
DECODE_WEIGHT = 3
"""The decode speed may be wrong so many times as often as another quantity: it is what comparisons are mostly for."""
WIDEST = math.log(100)
"""An interval that reaches further than a hundredfold up and down says nothing, and is not shown."""


@dataclass(frozen=True)
class Finding:
    """Verdict about one quantity at one level of load, B against A.

    ``change`` and its bounds are per cent of A, of shares percentage points; None where there are too few points.
    ``noise_percent`` is what A would differ from itself at the most, as measured between rounds or repeats, or as
    assumed. ``rounds_needed``: rounds of an interleaved run that would have told, where this can't tell.
    """

    level: str
    name: str
    label: str
    before: float
    after: float
    change: float | None
    low: float | None
    high: float | None
    noise_percent: float | None
    margin_percent: float
    verdict: str
    rounds_needed: int | None = None

    @property
    def is_share(self) -> bool:
        return self.name in (FAILED.name, GOODPUT.name)


@dataclass(frozen=True)
class Comparison:
    """Run or runs B against run or runs A."""

    a: Sequence[BenchmarkRecord]
    b: Sequence[BenchmarkRecord]
    findings: Sequence[Finding]
    noise: str
    """Source of the noise between runs: ``rounds``, ``repeats`` or ``assumed``."""
    differences: Sequence[str] = field(default_factory=tuple)
    warnings: Sequence[str] = field(default_factory=tuple)
    missing: Sequence[str] = field(default_factory=tuple)
    """Levels of load and quantities that A has and B has not: they can't be told."""

    @property
    def verdict(self) -> str:
        """Worse when anything is worse, else can't tell when anything can't be told, else better or same."""
        verdicts = {finding.verdict for finding in self.findings} | ({CANT_TELL} if self.missing else set())
        return next((verdict for verdict in (WORSE, CANT_TELL, BETTER) if verdict in verdicts), SAME)

    def as_row(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "a": [record.run_id for record in self.a],
            "b": [record.run_id for record in self.b],
            "verdict": self.verdict,
            "noise": self.noise,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "differences": list(self.differences),
            "warnings": list(self.warnings),
            "missing": list(self.missing),
        }


@dataclass(frozen=True)
class _Pending:
    """A finding that waits for its confidence: with each more, the confidence of each is higher."""

    at: Callable[[float], Finding]
    """Confidence -> finding."""
    weight: int = 1
    """It may be wrong so many times as often as another; 0 where it has no interval, and so can't be wrong."""


Sides = tuple[Sequence[Level], Sequence[Level]]


def judge(
    a: Sequence[BenchmarkRecord],
    b: Sequence[BenchmarkRecord],
    *,
    across: Collection[str] = (),
    margins: Mapping[str, float] | None = None,
    quantities: Sequence[Quantity] = QUANTITIES,
) -> Comparison:
    """Compare runs B with runs A. Several runs on a side are repeats of one measurement.

    Args:
        a, b: benchmark records, at least one each.
        across: what of comparable.WHAT_MAY_DIFFER is being compared, and so need not agree.
        margins: other equivalence margins, in per cent, by the names of quantities.
        quantities: what is judged, where both have it. With each more, all intervals are wider.

    Raises:
        UsageError: they can't be compared: another workload, load or model, a run that is not valid, or nothing that
            was measured in both.
    """
    comparable.check(a, b, across)
    interleaved, slo, margins = _interleaved(a, b), a[0].header.load.slo, margins or {}
    of_a, of_b = ([levels.by_name(record) for record in side] for side in (a, b))
    common = [name for name in of_a[0] if all(name in of_run for of_run in (*of_a, *of_b))]
    if not common:
        there = " and ".join(", ".join(of_run) or "no requests" for of_run in (of_a[0], of_b[0]))
        raise UsageError(
            f"{names(a)} and {names(b)} have no level of load in common: {there}",
            hint="measure both with the same --concurrency, --rate or --lengths",
        )
    dropped = [name for of_run in (*of_a, *of_b) for name in of_run if name not in common]
    swept = a[0].header.load.mode == "sweep"  # which finds its levels: those of two runs are seldom the same
    missing = [] if swept else [name for of_run in of_a for name in of_run if name not in common]
    pending: list[_Pending] = []
    for name in common:
        sides: Sides = [of_run[name] for of_run in of_a], [of_run[name] for of_run in of_b]
        for quantity in _judged(a, b, sides, quantities):
            margin = margins.get(quantity.name, quantity.margin_percent)
            if quantity.is_share:
                pending.append(_of_share(name, quantity, sides, slo, margin, interleaved=interleaved))
                continue
            figures = [[estimates.figure(level, quantity) for level in side] for side in sides]
            if None in figures[0] or None in figures[1]:
                if not quantity.is_tail and None not in figures[0]:
                    missing.append(f"{quantity.label} at {name}")
                continue
            typical = [math.exp(float(np.mean(np.log(np.array(side, dtype=np.float64))))) for side in figures]
            pending += _of_ratio(name, quantity, sides, typical, margin, interleaved=interleaved)
    # Intervals hold together: with each more, each is wider. Where there is none, nothing can be wrong.
    share = (1 - CONFIDENCE) / max(1, sum(one.weight for one in pending))
    findings = [one.at(1 - share * one.weight) for one in pending]
    if not findings:
        raise UsageError(
            f"{names(a)} and {names(b)} have no good requests to compare", hint="look at the runs: nox -s report"
        )
    noise = "rounds" if interleaved else "repeats" if len(a) + len(b) > 2 else "assumed"
    return Comparison(
        a, b, findings, noise, comparable.differences(a[0], b[0]), comparable.warnings(a, b, [*dropped, *missing]),
        list(dict.fromkeys(missing)),
    )  # fmt: skip


def _judged(
    a: Sequence[BenchmarkRecord], b: Sequence[BenchmarkRecord], sides: Sides, quantities: Sequence[Quantity]
) -> Iterable[Quantity]:
    """Quantities that can be judged at a level: none twice under two names, and none that the load itself sets."""
    of_level = [*sides[0], *sides[1]]
    streamed = any(row.ttft_ms is not None for level in of_level for row in level.rows if row.ok)
    closed = a[0].header.load.mode in ("closed", "sweep")
    for quantity in quantities:
        if quantity == TOTAL and streamed:
            continue  # it is TTFT and decoding once more
        if quantity == THROUGHPUT and (not closed or all(level.users == 1 for level in of_level)):
            continue  # one user's is decoding once more; at a rate it is the rate
        if quantity == FAILED and all(row.ok for level in of_level for row in level.rows):
            continue
        if quantity == GOODPUT and not (
            a[0].header.load.slo and all(one.header.load.slo == a[0].header.load.slo for one in (*a, *b))
        ):
            continue
        yield quantity


def _interleaved(a: Sequence[BenchmarkRecord], b: Sequence[BenchmarkRecord]) -> bool:
    """True if two runs were measured in turn, in more than one round."""
    if len(a) != 1 or len(b) != 1:
        return False
    named = [record.header.load.interleaved_with for record in (a[0], b[0])]
    several = any((row.round or 0) > 0 for row in a[0].requests)
    return several and named == [b[0].run_id, a[0].run_id]


def _of_share(
    level: str, quantity: Quantity, sides: Sides, slo: Mapping[str, float], margin: float, *, interleaved: bool
) -> _Pending:
    a, b = ([shares.share(one, quantity, slo) for one in side] for side in sides)

    def finding(confidence: float) -> Finding:
        apart = shares.difference(a, b, confidence, interleaved=interleaved)
        low, high = apart.low * 100, apart.high * 100
        return Finding(level, quantity.name, quantity.label, apart.first * 100, apart.second * 100,
                       (apart.second - apart.first) * 100, low, high, None, margin,
                       _verdict(quantity, low, high, margin))  # fmt: skip

    return _Pending(finding)


def _of_ratio(
    level: str, quantity: Quantity, sides: Sides, typical: Sequence[float], margin: float, *, interleaved: bool
) -> list[_Pending]:
    """Nothing where too few points lie in a tail to judge it."""
    effect, rounds = effects.between(sides, quantity, interleaved=interleaved)
    if effect is None and quantity.is_tail and any(estimates.is_thin(one, quantity) for side in sides for one in side):
        return []
    before, after = typical
    at = functools.partial(_ratio, level, quantity, before, after, effect, margin=margin, rounds=rounds)
    return [_Pending(at, 0 if effect is None else DECODE_WEIGHT if quantity == DECODE else 1)]


def _ratio(
    level: str, quantity: Quantity, before: float, after: float, effect: Effect | None, confidence: float, *,
    margin: float, rounds: int,
) -> Finding:  # fmt: skip
    factor = bootstrap.t_quantile((1 + confidence) / 2, effect.degrees) if effect else math.inf
    if effect is None or factor * effect.error > WIDEST:
        change = math.expm1(effect.log) * 100 if effect else (after / before - 1) * 100
        return Finding(level, quantity.name, quantity.label, before, after, change, None, None, None, margin, CANT_TELL)
    low, middle, high = (math.expm1(effect.log + sign * factor * effect.error) * 100 for sign in (-1, 0, 1))
    verdict = _verdict(quantity, low, high, margin)
    needed = None
    if verdict == CANT_TELL and rounds > 1:
        # So many that two equal servers are nearly always called the same.
        wanted = math.log1p(margin / 100) / (factor + NormalDist().inv_cdf(0.975))
        needed = max(rounds + 1, math.ceil(rounds * (effect.error / wanted) ** 2))
    noise = math.expm1(factor * effect.own_error) * 100 if factor * effect.own_error <= WIDEST else None
    return Finding(
        level, quantity.name, quantity.label, before, after, middle, low, high, noise, margin, verdict, needed
    )


def _verdict(quantity: Quantity, low: float, high: float, margin: float) -> str:
    if -margin <= low and high <= margin:
        return SAME
    if low <= 0 <= high:
        return CANT_TELL
    return BETTER if (low > 0) == quantity.higher_is_better else WORSE
