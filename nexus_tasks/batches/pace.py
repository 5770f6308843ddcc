"""Pace of one endpoint of a batch: how many requests it can take, and when it should have none.

    pace = Pace()
    pace.succeeded(lasted_s=1.5)
    pace.failed(problem)
    pace.is_failing, pace.is_paused, pace.limit

An endpoint that fails request after request is *failing*: it gets one at a time, with growing pauses, until it answers.
"""

from __future__ import annotations

from time import perf_counter

from nexus_tasks.batches.failures import Problem

FIRST_LIMIT, MAX_LIMIT = 4.0, 128.0
"""Requests under way at a server that does not tell its slots, at first and at most."""
PAUSE_S, MAX_DOUBLINGS = 0.5, 3
FAILURES_IN_A_ROW = 8
"""An endpoint that failed so often without an answer may be what fails, and not its rows."""
_WEIGHT = 0.2  # of the latest answer in the mean latency


class Pace:
    """Pace of an endpoint.

    Attributes:
        latency_s: mean of the latest answers; None before the first.
        last_problem: in one line.
    """

    def __init__(self) -> None:
        self.latency_s: float | None = None
        self.last_problem: str | None = None
        self._limit = FIRST_LIMIT
        self._failures = 0  # in a row
        self._pauses = 0
        self._paused_until = 0.0

    @property
    def limit(self) -> int:
        """Requests under way at a time, where the server tells no slots: grows with answers, halves with refusals."""
        return int(self._limit)

    @property
    def is_failing(self) -> bool:
        """True after many failures without an answer."""
        return self._failures >= FAILURES_IN_A_ROW

    @property
    def is_paused(self) -> bool:
        """True while nothing should be sent."""
        return self._paused_until > perf_counter()

    def succeeded(self, lasted_s: float) -> None:
        """Note an answer."""
        self._failures = self._pauses = 0
        before_s = lasted_s if self.latency_s is None else self.latency_s
        self.latency_s = before_s + _WEIGHT * (lasted_s - before_s)
        self._limit = min(self._limit + 1 / self._limit, MAX_LIMIT)

    def refused_one(self) -> None:
        """Note that a request was refused for what it is: the endpoint is well."""
        self._failures = self._pauses = 0

    def failed(self, problem: Problem) -> None:
        """Note a failure."""
        self.last_problem = f"{problem.kind}: {problem.message}"
        self._failures += 1
        if self.is_failing:
            self._pause(None)

    def overloaded(self, problem: Problem) -> None:
        """Note that it has too much to do, and for how long it asks not to be asked."""
        if not self.is_paused:  # what comes together is said once
            self.last_problem = problem.message
            self._failures += 1
            self._limit = max(self._limit / 2, 1.0)
        self._pause(problem.retry_after_s)

    def went_away(self, problem: Problem) -> None:
        """Note that it went away."""
        self.last_problem = problem.message
        self._failures += 1

    def _pause(self, seconds: float | None) -> None:
        """Send nothing for so long, or for longer than at the last time."""
        if seconds is None:
            if self.is_paused:
                return
            seconds = PAUSE_S * 2.0 ** min(self._pauses, MAX_DOUBLINGS)
            self._pauses += 1
        self._paused_until = max(self._paused_until, perf_counter() + seconds)
