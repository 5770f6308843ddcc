"""Work of a batch over time: seconds of work, and intervals of them whose number is bounded however long it takes.

clock = WorkClock()
clock.session(at=1_780_000_000.0)               # a process begins: what passed before is nobody's work
t_s = clock.moment(1_780_000_002.5)             # 2.5

intervals = Intervals()
intervals.count("rig/main", t_s, answered=1)
intervals.spread("rig/main", t_s - 2.0, t_s, tokens=128)
intervals.rows()                                # an IntervalRow for each in which something happened
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nexus_tasks.records.batch_rows import IntervalRow

INTERVALS = 600
MAX_ROWS = 12_000  # of all endpoints: with many of them, intervals are longer
FIRST_WIDTH_S = 0.05
OUT_OF_ORDER_S = 60.0  # entries of one moment are written in any order; a clock that goes back further was set
LONGEST_STEP_S = 3600.0  # between two entries: more, and the machine slept, or its clock was set


class WorkClock:
    """Seconds of work, made of moments of the wall clock: pauses, sleep, and a clock that is set count for nothing."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._last: float | None = None

    def session(self, at: float) -> float:
        """A process begins to work, at this moment of the wall clock."""
        self._last = at
        return self.seconds

    def moment(self, at: float) -> float:
        """The seconds of work at a moment, which is not before those that were asked for already."""
        step = 0.0 if self._last is None else at - self._last
        if 0 < step <= LONGEST_STEP_S:
            self.seconds += step
        if not -OUT_OF_ORDER_S <= step <= 0 or self._last is None:
            self._last = at
        return self.seconds


@dataclass
class _Series:
    """Counts of one endpoint, by interval."""

    answered: list[float] = field(default_factory=lambda: [0.0] * INTERVALS)
    failed: list[float] = field(default_factory=lambda: [0.0] * INTERVALS)
    tokens: list[float] = field(default_factory=lambda: [0.0] * INTERVALS)

    def halve(self) -> None:
        for values in (self.answered, self.failed, self.tokens):
            pairs = zip(values[::2], values[1::2], strict=True)
            values[:] = [*(one + other for one, other in pairs), *([0.0] * (len(values) // 2))]


class Intervals:
    """Counts by endpoint and interval: when the work outgrows them, intervals become twice as long."""

    def __init__(self) -> None:
        self.width_s = FIRST_WIDTH_S
        self._of: dict[str, _Series] = {}

    def count(self, endpoint: str, t_s: float, *, answered: int = 0, failed: int = 0) -> None:
        """Count ends of requests at a moment."""
        series, place = self._series(endpoint), self._place(t_s)
        series.answered[place] += answered
        series.failed[place] += failed

    def spread(self, endpoint: str, begun_s: float, ended_s: float, tokens: float) -> None:
        """Spread the tokens of an answer evenly over the time in which they came."""
        series, last = self._series(endpoint).tokens, self._place(ended_s)
        first = self._place(max(0.0, begun_s))
        if first >= last:
            series[last] += tokens
            return
        begun_s, per_s = max(0.0, begun_s), tokens / (ended_s - max(0.0, begun_s))
        for place in range(first, last + 1):
            overlap = min(ended_s, (place + 1) * self.width_s) - max(begun_s, place * self.width_s)
            series[place] += per_s * overlap

    def rows(self) -> list[IntervalRow]:
        """The intervals in which something happened, by endpoint and time."""
        used = max(
            (place + 1 for one in self._of.values() for place in range(INTERVALS) if _any(one, place)), default=0
        )
        while used * len(self._of) > MAX_ROWS:
            self._double()
            used = -(-used // 2)
        return [
            IntervalRow(
                endpoint=endpoint, t_s=round(place * self.width_s, 3), width_s=self.width_s,
                answered=round(series.answered[place]), failed=round(series.failed[place]),
                output_tokens=round(series.tokens[place], 2),
            )
            for endpoint, series in self._of.items()
            for place in range(used)
            if _any(series, place)
        ]  # fmt: skip

    def _series(self, endpoint: str) -> _Series:
        series = self._of.get(endpoint)
        if series is None:
            series = self._of[endpoint] = _Series()
        return series

    def _place(self, t_s: float) -> int:
        while t_s >= INTERVALS * self.width_s:
            self._double()
        return int(t_s / self.width_s)

    def _double(self) -> None:
        self.width_s *= 2
        for series in self._of.values():
            series.halve()


def _any(series: _Series, place: int) -> bool:
    return bool(series.answered[place] or series.failed[place] or series.tokens[place])
