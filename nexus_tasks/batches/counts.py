"""Counts of a batch, of its endpoints, servers, failures and schemas; and a sample of those that are too many to keep.

endpoint = Endpoint(slots=4)
endpoint.begin(t_s=0.0, count=4)
endpoint.end(t_s=2.5)
endpoint.busy_share

sample = Reservoir(2000)
if (place := sample.place()) is not None:
    sample.put(place, one)
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from nexus_tasks.batches.entries import Usage

EXAMPLES = 5  # of a kind of failures

_T = TypeVar("_T")


class Reservoir(Generic[_T]):
    """A sample in which each of those that were offered has the same chance (Vitter's algorithm R)."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.kept: list[_T] = []
        self.offered = 0
        self._size = size
        self._random = random.Random(seed)  # noqa: S311 - a sample, not a secret

    def place(self) -> int | None:
        """The place in the sample of what is offered next; None where it is not taken."""
        self.offered += 1
        if len(self.kept) < self._size:
            return len(self.kept)
        place = int(self._random.random() * self.offered)
        return place if place < self._size else None

    def put(self, place: int, one: _T) -> None:
        """Keep one at its place."""
        self.kept[place : place + 1] = [one]


@dataclass
class Cause:
    """A kind of failures, or a reason of invalid answers: how often it was met, and a few of the items that met it."""

    final: int = 0
    attempts: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list)
    """Items and messages, of those that stand as they were left."""
    tried: tuple[int, str] | None = None
    """The first attempt that failed, and was made again."""

    def meet(self, item: int, message: str) -> None:
        """Count an item that ended so."""
        self.final += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append((item, message))

    def try_again(self, item: int, message: str) -> None:
        """Count a failed attempt that was made again."""
        self.attempts += 1
        self.tried = self.tried or (item, message)


@dataclass
class Checked:
    """Answers that were held against one schema."""

    checked: int = 0
    valid: int = 0
    reasons: dict[str, Cause] = field(default_factory=dict)


@dataclass(frozen=True)
class ServerKey:
    """A server that answered: one build and model at one endpoint."""

    endpoint: str
    model: str
    build: str | None


@dataclass
class Answerer:
    """Items that a server answered: how many, the first and the last; ``slots`` and ``n_ctx`` as it was found."""

    answered: int = 0
    first: int | None = None
    last: int | None = None
    slots: int | None = None
    n_ctx: int | None = None


@dataclass
class Tokens:
    """Tokens by the servers' count; None while none has counted any."""

    prompt: int | None = None
    output: int | None = None
    cached: int | None = None

    def add(self, usage: Usage) -> None:
        self.prompt = _sum(self.prompt, usage.prompt_tokens)
        self.output = _sum(self.output, usage.output_tokens)
        self.cached = _sum(self.cached, usage.cached_tokens)


@dataclass
class Endpoint:
    """Work of one endpoint; slots are counted from its first request of a session to the last that began."""

    model: str | None = None
    build: str | None = None
    slots: int | None = None
    requests: int = 0
    answered: int = 0
    failed: int = 0
    tokens: Tokens = field(default_factory=Tokens)
    under_way: int = 0
    _at_s: float | None = None
    _busy_s: float = 0.0
    _room_s: float = 0.0
    _until_last_begun: tuple[float, float] = (0.0, 0.0)

    @property
    def busy_share(self) -> float | None:
        """The mean share of the slots that were at work while there was more to begin; None where it can't be known."""
        busy_s, room_s = self._until_last_begun
        return min(1.0, busy_s / room_s) if room_s > 0 else None

    def begin(self, t_s: float, count: int) -> None:
        self._pass(t_s)
        self._until_last_begun = self._busy_s, self._room_s
        self.requests += count
        self.under_way += count

    def end(self, t_s: float) -> None:
        self._pass(t_s)
        self.under_way = max(0, self.under_way - 1)

    def session(self) -> None:
        """A process begins: what was under way is not, and what passed since the last request began is no idle time."""
        self._busy_s, self._room_s = self._until_last_begun
        self._at_s, self.under_way = None, 0

    def _pass(self, t_s: float) -> None:
        if self._at_s is not None and self.slots:
            self._busy_s += min(self.under_way, self.slots) * (t_s - self._at_s)
            self._room_s += self.slots * (t_s - self._at_s)
        self._at_s = t_s


def _sum(so_far: int | None, more: int | None) -> int | None:
    return so_far if more is None else (so_far or 0) + more
