"""Totals of usage: rows of hours, users and models added up by what somebody wants to know.

totals.by(rows, ["user", "model"], bounds_ms)        # [Total(of={"user": "alice", "model": "tiny"}, requests=12, …)]
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nexus_tasks.core.errors import UsageError
from nexus_tasks.records.usage_rows import UsageRow

KEYS = ("user", "model", "gateway", "day", "hour")
REFUSED, FAILED = range(400, 500), range(500, 600)
SUMS = ("requests", "streams", "answered", "partial", "uncounted", "prompt_tokens", "cached_tokens",
        "completion_tokens", "bytes", "queue_ms_sum")  # fmt: skip


@dataclass
class Total:
    """Usage of all rows that have the same ``of``.

    ``refused`` are errors of the client's (4xx), ``failed`` those of gateway and servers, by status in ``errors``.
    """

    of: dict[str, str]
    bounds_ms: Sequence[int]
    requests: int = 0
    streams: int = 0
    answered: int = 0
    partial: int = 0
    uncounted: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    bytes: int = 0
    queue_ms_sum: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    queue_ms: Counter[int] = field(default_factory=Counter)
    ttft_ms: Counter[int] = field(default_factory=Counter)

    def add(self, row: UsageRow) -> None:
        """Add a row."""
        for name in SUMS:
            setattr(self, name, getattr(self, name) + getattr(row, name))
        self.errors.update(row.errors)
        self.queue_ms.update(dict(enumerate(row.queue_ms)))
        self.ttft_ms.update(dict(enumerate(row.ttft_ms)))

    @property
    def refused(self) -> int:
        return sum(count for status, count in self.errors.items() if int(status) in REFUSED)

    @property
    def failed(self) -> int:
        return sum(count for status, count in self.errors.items() if int(status) not in REFUSED)

    @property
    def tokens(self) -> int:
        """Prompt and answer, as they count against a user's limit."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def cached_share(self) -> float | None:
        """Share (0-1) of the prompts' tokens that came from a cache; None where there was no prompt."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None

    @property
    def waited(self) -> int:
        """Requests that came to a server, and so may have waited for one."""
        return sum(self.queue_ms.values())

    def queue_at_most_ms(self, percent: float) -> float | None:
        """A time that so many per cent of the requests waited at most, as exact as the bins; None where none did."""
        return quantile(self.queue_ms, self.bounds_ms, percent)

    def ttft_at_most_ms(self, percent: float) -> float | None:
        """The same of the time to the first token."""
        return quantile(self.ttft_ms, self.bounds_ms, percent)

    def as_json(self) -> dict[str, Any]:
        """The total for programs."""
        return {
            **self.of,
            **{name: getattr(self, name) for name in SUMS if name != "queue_ms_sum"},
            "errors": dict(sorted(self.errors.items())),
            "refused": self.refused,
            "failed": self.failed,
            "queue_ms_p50": _finite(self.queue_at_most_ms(50)),
            "queue_ms_p95": _finite(self.queue_at_most_ms(95)),
            "ttft_ms_p50": _finite(self.ttft_at_most_ms(50)),
            "ttft_ms_p95": _finite(self.ttft_at_most_ms(95)),
        }


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else value


def quantile(bins: Counter[int], bounds: Sequence[int], percent: float) -> float | None:
    """Upper bound of the bin that a quantile is in; infinity where it is beyond all bounds, None without a count."""
    counted = sum(bins.values())
    if not counted:
        return None
    reached = itertools.accumulate(bins[place] for place in range(len(bounds) + 1))
    place = next(place for place, count in enumerate(reached) if count >= counted * percent / 100)
    return float(bounds[place]) if place < len(bounds) else float("inf")


def by(rows: Iterable[UsageRow], keys: Sequence[str], bounds_ms: Sequence[int]) -> list[Total]:
    """Totals by some of KEYS, those with the most tokens first; by days and hours the earliest first."""
    found: dict[tuple[str, ...], Total] = {}
    for row in rows:
        named = tuple(key_of(row, key) for key in keys)
        if named not in found:
            found[named] = Total(dict(zip(keys, named, strict=True)), bounds_ms)
        found[named].add(row)
    in_time = [key for key in keys if key in ("day", "hour")]
    return sorted(
        found.values(),
        key=lambda total: (*(total.of[key] for key in in_time), -total.tokens, -total.requests, *total.of.values()),
    )


def overall(rows: Iterable[UsageRow], bounds_ms: Sequence[int]) -> Total:
    """The total of all rows."""
    return next(iter(by(rows, [], bounds_ms)), Total({}, bounds_ms))


def key_of(row: UsageRow, key: str) -> str:
    """A row's user, model, gateway, day or hour."""
    return row.hour.partition("T")[0] if key == "day" else str(getattr(row, key))


def keys_of(text: str) -> list[str]:
    """The keys of a word such as ``user,model``.

    Raises:
        UsageError: one of them is none.
    """
    keys = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    wrong = [key for key in keys if key not in KEYS]
    if wrong or not keys:
        said = f"usage is not told by {wrong[0]!r}" if wrong else "--by names nothing"
        raise UsageError(said, hint=f"name some of {', '.join(KEYS)}, with commas between them")
    return keys
