"""Options of a batch's execution, and its outcome."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

COMPLETE, INTERRUPTED = "complete", "interrupted"
"""Ends of a run that are no error, as :class:`nexus_tasks.batches.entries.Session` has them."""


@dataclass(frozen=True)
class Options:
    """Limits of patience and of load; times in seconds.

    Args:
        attempts: requests of one row at most, counting those that failed for a reason that may be its own.
        token_s: the longest silence of a server while it answers, or before it does.
        request_s: the longest answer; None for any.
        wait_s: for any endpoint, when all of them are gone.
        concurrency: requests under way at each endpoint that doesn't tell its slots; None lets them grow until it
            refuses some.
        dedupe: whether identical requests are answered once.
    """

    attempts: int = 5
    connect_s: float = 10.0
    token_s: float = 300.0
    request_s: float | None = None
    wait_s: float = 300.0
    concurrency: int | None = None
    dedupe: bool = False


@dataclass
class Served:
    """Work that one endpoint has done in this run; ``problem`` is why it is not used at its end."""

    endpoint: str
    model: str | None = None
    build: str | None = None
    answered: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    problem: str | None = None


@dataclass
class Outcome:
    """Outcome of a run. ``done_before`` items had their result when it began; ``total`` counts those, too.

    ``set_aside`` are this run's, by kind; ``retried`` are attempts that failed and were made again, by kind.
    ``ended`` is COMPLETE, INTERRUPTED or an error's line, and ``hint`` what to do about that.
    """

    total: int
    done_before: int = 0
    answered: int = 0
    twins: int = 0
    invalid: int = 0
    set_aside: Counter[str] = field(default_factory=Counter)
    retried: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    ended: str = COMPLETE
    hint: str = ""
    served: list[Served] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Items that have a result, those of earlier runs among them."""
        return self.done_before + self.answered + self.set_aside.total()
