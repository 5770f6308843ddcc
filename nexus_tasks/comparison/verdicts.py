"""Whether one run is better or worse than another, and how sure that is.

    found = verdicts.judge([before], [after])
    [finding.verdict for finding in found.findings]          "better", "worse", "same" or "can't tell"

docs/compare.md says how it is judged, and noise.py simulates how often that is right.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nexus_tasks.comparison import comparable
from nexus_tasks.comparison.comparable import names
from nexus_tasks.comparison.quantities import (
    DECODE,
    FAILED,
    GOODPUT,
    QUANTITIES,
    THROUGHPUT,
    TOTAL,
    Quantity,
)
from nexus_tasks.core.errors import UsageError
from nexus_tasks.records import runs
from nexus_tasks.records.store import Record, Row
from nexus_tasks.stats import bootstrap
from nexus_tasks.stats.bootstrap import Floats, Integers
from nexus_tasks.stats.metrics import ITL, STATISTICS, parse
from nexus_tasks.stats.slo import meets

BETTER, WORSE, SAME, CANT_TELL = "better", "worse", "same", "can't tell"

CONFIDENCE = 0.95
"""Of all intervals of one comparison together: each alone is wider (Bonferroni)."""
DECODE_WEIGHT = 3
"""The decode speed may be wrong so many times as often as another quantity: it is what comparisons are mostly for."""
BATCHES = 30
"""Requests that followed one another are drawn together, in so many batches: what moves slowly doesn't hide."""
FEW = 6
"""Below this many requests an error comes from their deviation, not from the bootstrap."""
DRIFT_DEGREES = 4
"""Repeats outweigh the assumed drift once they say more about it than five runs do."""
WIDEST = math.log(100)
"""An interval that reaches further than a hundredfold up and down says nothing, and is not shown."""
TAIL_POINTS = 5
"""So many points must lie beyond a p95 or p99, or it is not judged."""
MEDIAN_ERROR = math.sqrt(math.pi / 2)
"""By how much a median of normal points is less certain than their mean."""


@dataclass(frozen=True)
class Finding:
    """What became of one quantity at one level of load, B against A.

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

    a: Sequence[Record]
    b: Sequence[Record]
    findings: Sequence[Finding]
    noise: str
    """Where the noise between runs is known from: ``rounds``, ``repeats`` or ``assumed``."""
    differences: Sequence[str] = field(default_factory=tuple)
    warnings: Sequence[str] = field(default_factory=tuple)
    missing: Sequence[str] = field(default_factory=tuple)
    """What A has and B has not, levels of load and quantities: it can't be told."""

    @property
    def verdict(self) -> str:
        """Worse when anything is worse, else can't tell when anything can't be told, else better or same."""
        found = {finding.verdict for finding in self.findings} | ({CANT_TELL} if self.missing else set())
        return next((verdict for verdict in (WORSE, CANT_TELL, BETTER) if verdict in found), SAME)

    def as_row(self) -> Row:
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


# --- what is measured of one side


@dataclass(frozen=True)
class _Estimate:
    """A figure, and the standard error of its logarithm (with its degrees of freedom) as the run itself shows it."""

    value: float
    error: float
    degrees: float


@dataclass(frozen=True)
class _Effect:
    """The logarithm of B over A, its error and degrees of freedom, and the error that A would have against itself."""

    log: float
    error: float
    degrees: float
    own_error: float


@dataclass(frozen=True)
class _Level:
    """The counted requests of a run at one level of load, in order, and the stages that they belong to."""

    rows: Sequence[Row]
    stages: Sequence[Row]

    def rounds(self) -> dict[int, _Level]:
        """The parts of an interleaved run, by round."""
        numbers = sorted({int(row.get("round") or 0) for row in self.rows})
        return {
            number: _Level(
                [row for row in self.rows if (row.get("round") or 0) == number],
                [row for row in self.stages if (row.get("round") or 0) == number],
            )
            for number in numbers
        }


def _levels(record: Record) -> dict[str, _Level]:
    """A run's levels of load by name; stages of one level are taken together."""
    load = record.header["load"]
    by_length = load["axis"] == "prompt_tokens"
    stages: dict[int, Row] = {row["stage"]: row for row in record.stages}

    def name(number: int) -> str:
        # A stage that was cut short has no row: each round has the planned ones again. Those of a sweep are not known.
        planned = load["planned"] if load["mode"] != "sweep" or not stages else []
        row = stages.get(number) or (planned[number % len(planned)] if planned else {})
        keys = runs.LEVELS if by_length else ("concurrency", "rate_per_s")
        return runs.level_name({key: row.get(key) for key in keys})

    rows: dict[str, list[Row]] = {}
    for row in record.requests:
        if row["phase"] == "run":
            rows.setdefault(name(row["stage"]), []).append(row)
    return {
        level: _Level(
            sorted(of_level, key=lambda row: float(row["start_s"])),
            [row for row in record.stages if name(row["stage"]) == level],
        )
        for level, of_level in rows.items()
    }


def _points(level: _Level, metric: str) -> tuple[Floats, Integers]:
    """The points of a metric of good requests, and how many each request has."""
    found = [row[metric] for row in level.rows if row["ok"] and row.get(metric) is not None]
    if metric != ITL.key:
        return np.array(found, dtype=np.float64), np.ones(len(found), dtype=np.int64)
    found = [gaps for gaps in found if len(gaps)]
    sizes = np.array([len(gaps) for gaps in found], dtype=np.int64)
    return np.concatenate([np.asarray(gaps, dtype=np.float64) for gaps in found] or [np.empty(0)]), sizes


def _figure(level: _Level, quantity: Quantity) -> float | None:
    """The quantity of a level, without an error; None where it has none or is not above 0."""
    if quantity is THROUGHPUT:
        measured = [(row.get("throughput") or {}).get("output_tps") for row in level.stages]
        known = [float(value) for value in measured if value]
        return sum(known) / len(known) if known else None
    values, _ = _points(level, quantity.metric.key)
    rank = STATISTICS[quantity.statistic] or 0.5
    if not len(values) or (quantity.is_tail and round(len(values) * (1 - rank), 6) < 1):
        return None  # a p95 of fewer than 20 points would be the largest under another name
    value = bootstrap.quantile(np.sort(values), rank)
    return value if value > 0 else None


def _is_thin(level: _Level, quantity: Quantity) -> bool:
    """Whether too few points lie in a tail to judge it."""
    values, _ = _points(level, quantity.metric.key)
    return len(values) * (1 - (STATISTICS[quantity.statistic] or 0.5)) < TAIL_POINTS


def _estimate(level: _Level, quantity: Quantity) -> _Estimate | None:
    """The quantity of a level with its error; None where there are too few points for one."""
    value = _figure(level, quantity)
    if value is None:
        return None
    if quantity is THROUGHPUT:
        return _throughput_error(level, value)
    values, sizes = _points(level, quantity.metric.key)
    if len(sizes) < FEW:
        if quantity.statistic != "median" or len(values) < 2 or values.min() <= 0:
            return None
        error = MEDIAN_ERROR * float(np.log(values).std(ddof=1)) / math.sqrt(len(values))
        return _Estimate(value, error, len(values) - 1)
    batches = _batches(level, sizes)
    degrees = len(batches) - 1
    bounds = bootstrap.intervals(values, batches, (quantity.statistic,))[quantity.statistic]
    if bounds is None or bounds[0] <= 0:
        return None
    error = math.log(bounds[1] / bounds[0]) / 2 / bootstrap.t_quantile(0.975, degrees)
    return _Estimate(value, error, degrees)


def _ends(level: _Level) -> float:
    """How much of the throughput is lost at the most while the load begins and ends, as a share.

    Fewer than all users are at work then, for as long as one request: the more requests, the less it weighs.
    """
    users = max((int(row.get("concurrency") or 1) for row in level.stages), default=1)
    return users / (users + len(level.rows))


def _batches(level: _Level, of_requests: NDArray[Any]) -> NDArray[Any]:
    """Sums over requests that followed one another; those in flight together share a moment, and so a batch."""
    together = max((int(row.get("concurrency") or 1) for row in level.stages), default=1)
    most = max(FEW, len(of_requests) // together)
    return np.array([batch.sum() for batch in np.array_split(of_requests, min(len(of_requests), BATCHES, most))])


def _throughput_error(level: _Level, value: float) -> _Estimate | None:
    """Throughput is tokens over time spent on requests: its error is that of the ratio, by batches of requests."""
    good = [row for row in level.rows if row["ok"] and row["output_tokens"]]
    if len(good) < FEW:
        return None
    tokens = np.array([row["output_tokens"] for row in good], dtype=np.float64)
    spent = np.array([row["total_ms"] for row in good], dtype=np.float64)
    left = tokens - tokens.sum() / spent.sum() * spent
    batches = _batches(level, left)
    error = math.sqrt(float((batches**2).sum()) * len(batches) / (len(batches) - 1)) / float(tokens.sum())
    return _Estimate(value, error, len(batches) - 1)


# --- B against A


def _in_rounds(a: _Level, b: _Level, quantity: Quantity) -> _Effect | None:
    """Round by round: each gives one difference, in which what drifts from round to round is not contained."""
    first, second = a.rounds(), b.rounds()
    pairs = [(_figure(first[n], quantity), _figure(second[n], quantity)) for n in first if n in second]
    logs = np.array([(math.log(x), math.log(y)) for x, y in pairs if x is not None and y is not None])
    if len(logs) < 2:
        return None
    apart = logs[:, 1] - logs[:, 0]
    error = float(apart.std(ddof=1)) / math.sqrt(len(apart))
    # Neighbouring rounds of one side: what the comparison would show if both sides were the same.
    steps = np.diff(logs, axis=0)
    own = math.sqrt(float((steps**2).mean(axis=0).sum()) / 2 / len(logs))
    return _Effect(float(apart.mean()), error, len(apart) - 1, own)


def _apart(a: Sequence[_Estimate], b: Sequence[_Estimate], quantity: Quantity) -> _Effect:
    """Runs at different times: their own errors, and the drift from run to run, assumed until repeats show it."""
    logs = [np.log([estimate.value for estimate in side]) for side in (a, b)]
    drift = (quantity.drift_percent / 100) ** 2
    within = [estimate.error**2 for estimate in (*a, *b)]
    each = 1 / len(a) + 1 / len(b)
    repeats = len(a) + len(b) - 2
    if repeats:
        measured = sum(float(((side - side.mean()) ** 2).sum()) for side in logs)
        degrees: float = DRIFT_DEGREES + repeats
        variance = (DRIFT_DEGREES * (drift + float(np.mean(within))) + measured) / degrees * each
    else:
        variance = sum(within) + drift * each
        parts = sum(estimate.error**4 / estimate.degrees for estimate in (*a, *b))
        degrees = variance**2 / parts if parts else math.inf  # Satterthwaite; the assumed drift counts as known
    error = math.sqrt(variance)
    return _Effect(float(logs[1].mean() - logs[0].mean()), error, degrees, error)


def _verdict(quantity: Quantity, low: float, high: float, margin: float) -> str:
    if -margin <= low and high <= margin:
        return SAME
    if low <= 0 <= high:
        return CANT_TELL
    return BETTER if (low > 0) == quantity.higher_is_better else WORSE


@dataclass(frozen=True)
class _Share:
    """How many of the tried requests of a run failed, or were good.

    ``independent`` is how many requests that have nothing to do with one another would say as much; ``drift`` the
    deviation of the share from one run to the next that is assumed, and ``by_round`` the share in each round.
    """

    value: float
    tried: int
    independent: float
    drift: float
    by_round: Mapping[int, float]


def _share(level: _Level, quantity: Quantity, slo: Mapping[str, float]) -> _Share:
    def hits(part: _Level, drifted: int = 0) -> Floats:
        """1 for each request that is counted, else 0, where the machine is so many deviations slower."""
        if quantity is FAILED:
            return np.array([not row["ok"] for row in part.rows], dtype=np.float64)
        limits = {name: limit / (1 + drifted * _drift_percent(name) / 100) for name, limit in slo.items()}
        return np.array([meets(row, limits) for row in part.rows], dtype=np.float64)

    found = hits(level)
    value = float(found.mean())
    # Failures and slow answers come in bursts: a burst says as much as a few requests.
    left = _batches(level, found - value)
    alone = value * (1 - value) * len(found)
    bunched = float((left**2).sum()) * len(left) / (len(left) - 1) / alone if alone and len(left) > 1 else 1.0
    drift = 0.0 if quantity is FAILED else float(hits(level, -1).mean() - hits(level, 1).mean()) / 2
    by_round = {number: float(hits(part).mean()) for number, part in level.rounds().items()}
    return _Share(value, len(found), len(found) / max(1.0, bunched), drift, by_round)


def _drift_percent(objective: str) -> float:
    metric, statistic = parse(objective)
    return metric.tolerance_of(statistic or "median").drift_percent


def _share_error(a: Sequence[_Share], b: Sequence[_Share], *, interleaved: bool) -> tuple[float, float]:
    """The error of the difference of two shares by what drifts, and its degrees of freedom.

    Of two runs that is the assumed drift alone. Between rounds and repeats counting differs, too, and is contained.
    """
    if interleaved:
        first, second = a[0].by_round, b[0].by_round
        apart = np.array([second[number] - first[number] for number in first if number in second])
        if len(apart) < 2:
            return 0.0, math.inf
        return float(apart.std(ddof=1)) / math.sqrt(len(apart)), len(apart) - 1
    drift = float(np.mean([one.drift**2 for one in (*a, *b)]))
    each = 1 / len(a) + 1 / len(b)
    repeats = len(a) + len(b) - 2
    if not repeats:
        return math.sqrt(drift * each), math.inf
    counting = float(np.mean([one.value * (1 - one.value) / one.independent for one in (*a, *b)]))
    measured = sum(float(np.var([one.value for one in side])) * len(side) for side in (a, b))
    degrees = DRIFT_DEGREES + repeats
    return math.sqrt((DRIFT_DEGREES * (drift + counting) + measured) / degrees * each), degrees


def _wilson(share: float, of: float, z: float) -> tuple[float, float]:
    z2 = z * z
    middle, half = share + z2 / (2 * of), z * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of))
    return (middle - half) / (1 + z2 / of), (middle + half) / (1 + z2 / of)


def _shares(
    name: str, quantity: Quantity, a: Sequence[_Share], b: Sequence[_Share], confidence: float, margin: float,
    *, interleaved: bool,
) -> Finding:  # fmt: skip
    """Two shares of requests: the interval of their difference is Newcombe's, made of Wilson's, and what drifts."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    first, second = (sum(one.value * one.tried for one in side) / sum(one.tried for one in side) for side in (a, b))
    low_a, high_a = _wilson(first, sum(one.independent for one in a), z)
    low_b, high_b = _wilson(second, sum(one.independent for one in b), z)
    error, degrees = _share_error(a, b, interleaved=interleaved)
    drifted = bootstrap.t_quantile((1 + confidence) / 2, degrees) * error
    join = max if interleaved or len(a) + len(b) > 2 else math.hypot
    low = max(-1.0, second - first - join(math.hypot(second - low_b, high_a - first), drifted)) * 100
    high = min(1.0, second - first + join(math.hypot(high_b - second, first - low_a), drifted)) * 100
    verdict = _verdict(quantity, low, high, margin)
    return Finding(name, quantity.name, quantity.label, first * 100, second * 100, (second - first) * 100, low, high,
                   None, margin, verdict)  # fmt: skip


def _finding(
    level: str, quantity: Quantity, a: float, b: float, effect: _Effect | None, confidence: float, margin: float,
    rounds: int,
) -> Finding:  # fmt: skip
    factor = bootstrap.t_quantile((1 + confidence) / 2, effect.degrees) if effect else math.inf
    if effect is None or factor * effect.error > WIDEST:
        change = math.expm1(effect.log) * 100 if effect else (b / a - 1) * 100
        return Finding(level, quantity.name, quantity.label, a, b, change, None, None, None, margin, CANT_TELL)
    low, middle, high = (
        math.expm1(effect.log + sign * factor * effect.error) * 100 for sign in (-1, 0, 1)
    )  # fmt: skip
    verdict = _verdict(quantity, low, high, margin)
    needed = None
    if verdict == CANT_TELL and rounds > 1:
        # So many that two equal servers are nearly always called the same.
        wanted = math.log1p(margin / 100) / (factor + NormalDist().inv_cdf(0.975))
        needed = max(rounds + 1, math.ceil(rounds * (effect.error / wanted) ** 2))
    noise = math.expm1(factor * effect.own_error) * 100 if factor * effect.own_error <= WIDEST else None
    return Finding(
        level, quantity.name, quantity.label, a, b, middle, low, high, noise, margin, verdict, needed
    )  # fmt: skip


def judge(
    a: Sequence[Record],
    b: Sequence[Record],
    *,
    across: Collection[str] = (),
    margins: Mapping[str, float] | None = None,
) -> Comparison:
    """Compare runs B with runs A. Several runs on a side are repeats of one measurement.

    Args:
        a, b: benchmark records, at least one each.
        across: what of comparable.WHAT_MAY_DIFFER is being compared, and so need not agree.
        margins: other margins, in per cent, by the names of QUANTITIES.

    Raises:
        UsageError: they can't be compared: another workload, load or model, a run that is not valid, or nothing that
            was measured in both.
    """
    comparable.check(a, b, across)
    interleaved = _interleaved(a, b)
    first, second = [_levels(record) for record in a], [_levels(record) for record in b]
    common = [name for name in first[0] if all(name in levels for levels in (*first, *second))]
    if not common:
        found = " and ".join(", ".join(levels) or "no requests" for levels in (first[0], second[0]))
        raise UsageError(
            f"{names(a)} and {names(b)} have no level of load in common: {found}",
            hint="measure both with the same --concurrency, --rate or --lengths",
        )
    dropped = [name for levels in (*first, *second) for name in levels if name not in common]
    swept = a[0].header["load"]["mode"] == "sweep"  # which finds its levels: those of two runs are seldom the same
    missing = [] if swept else [name for levels in first for name in levels if name not in common]
    jobs: list[tuple[int, Callable[[float], Finding]]] = []
    margins = margins or {}
    for name in common:
        sides = [levels[name] for levels in first], [levels[name] for levels in second]
        for quantity in _judged(a, b, sides):
            margin = margins.get(quantity.name, quantity.margin_percent)
            if quantity.is_share:
                slo = a[0].header["load"]["slo"]
                shares = [[_share(level, quantity, slo) for level in side] for side in sides]
                jobs.append((1, _bind(_shares, name, quantity, *shares, margin=margin, interleaved=interleaved)))
                continue
            figures = [[_figure(level, quantity) for level in side] for side in sides]
            if any(figure is None for side in figures for figure in side):
                if not quantity.is_tail and None not in figures[0]:
                    missing.append(f"{quantity.label} at {name}")
                continue
            typical = [math.exp(float(np.mean(np.log(np.array(side, dtype=np.float64))))) for side in figures]
            effect, rounds = _effect(sides, quantity, interleaved=interleaved)
            if effect is None and quantity.is_tail and any(_is_thin(one, quantity) for side in sides for one in side):
                continue
            weight = 0 if effect is None else DECODE_WEIGHT if quantity is DECODE else 1
            jobs.append((weight, _bind(_finding, name, quantity, *typical, effect, margin=margin, rounds=rounds)))
    # Intervals hold together: with each more, each is wider. Where there is none, nothing can be wrong.
    share = (1 - CONFIDENCE) / max(1, sum(weight for weight, _ in jobs))
    findings = [job(1 - share * weight) for weight, job in jobs]
    if not findings:
        raise UsageError(
            f"{names(a)} and {names(b)} have no good requests to compare", hint="look at the runs: nox -s report"
        )
    noise = "rounds" if interleaved else "repeats" if len(a) + len(b) > 2 else "assumed"
    return Comparison(
        a, b, findings, noise, comparable.differences(a[0], b[0]), comparable.warnings(a, b, [*dropped, *missing]),
        list(dict.fromkeys(missing)),
    )  # fmt: skip


def _bind(function: Callable[..., Finding], *arguments: Any, **named: Any) -> Callable[[float], Finding]:
    return lambda confidence: function(*arguments, confidence=confidence, **named)


def _effect(
    sides: tuple[Sequence[_Level], Sequence[_Level]], quantity: Quantity, *, interleaved: bool
) -> tuple[_Effect | None, int]:
    """The effect, and in how many rounds it was measured (1: not in rounds)."""
    if interleaved:
        a, b = sides[0][0], sides[1][0]
        return _in_rounds(a, b, quantity), len(a.rounds())
    found = [[_estimate(level, quantity) for level in side] for side in sides]
    known = [[estimate for estimate in side if estimate is not None] for side in found]
    complete = all(len(side) == len(estimated) for side, estimated in zip(found, known, strict=True))
    if not complete:
        return None, 1
    effect = _apart(known[0], known[1], quantity)
    if quantity is THROUGHPUT:  # twice the error is as much as the beginning and the end can differ
        ends = [float(np.mean([_ends(level) for level in side])) for side in sides]
        effect = dataclasses.replace(effect, error=math.hypot(effect.error, (ends[1] - ends[0]) / 2))
    return effect, 1


def _judged(
    a: Sequence[Record], b: Sequence[Record], sides: tuple[Sequence[_Level], Sequence[_Level]]
) -> Iterable[Quantity]:
    """What can be judged at a level: nothing twice under two names, and nothing that the load itself sets."""
    levels = [*sides[0], *sides[1]]
    streamed = any(row.get("ttft_ms") is not None for level in levels for row in level.rows if row["ok"])
    closed = a[0].header["load"]["mode"] in ("closed", "sweep")
    for quantity in QUANTITIES:
        if quantity is TOTAL and streamed:
            continue  # it is TTFT and decoding once more
        if quantity is THROUGHPUT and (
            not closed or all((row.get("concurrency") or 1) == 1 for level in levels for row in level.stages)
        ):
            continue  # one user's is decoding once more; at a rate it is the rate
        if quantity is FAILED and all(row["ok"] for level in levels for row in level.rows):
            continue
        if quantity is GOODPUT and not (
            a[0].header["load"]["slo"]
            and all(one.header["load"]["slo"] == a[0].header["load"]["slo"] for one in (*a, *b))
        ):
            continue
        yield quantity


def _interleaved(a: Sequence[Record], b: Sequence[Record]) -> bool:
    """Whether two runs were measured in turn, in more than one round."""
    if len(a) != 1 or len(b) != 1:
        return False
    named = [record.header["load"].get("interleaved_with") for record in (a[0], b[0])]
    several = any((row.get("round") or 0) > 0 for row in a[0].requests)
    return several and named == [b[0].run_id, a[0].run_id]
