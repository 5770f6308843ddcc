"""Window of a batch: the items that were read and not sent yet, a bounded number, grouped by what they begin with.

    window.add(work)
    window.take("gpu1/main")        # goes on with that endpoint's group as long as the window has some of it

An endpoint that goes on with one beginning has it in its prompt cache. Nothing is held back for that: an endpoint that
is free takes of another's group where there is no other.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from nexus_tasks.batches.answers import Reader
from nexus_tasks.batches.items import Item, Request

MAX_ITEMS = 1024
MAX_BYTES = 64 << 20
"""So much is read ahead, whatever the input's size."""
BEGINNING_BYTES = 512
"""Requests of which so much is the same are one group, where the input names none."""


@dataclass(eq=False, slots=True)
class Work:
    """An item that is to be asked.

    ``sent`` is how often it was sent, ``faults`` how often it failed for a reason that may be its own, ``crashes`` how
    often it was under way when its server died. ``begun`` is a moment of ``perf_counter``.
    """

    item: Item
    request: Request
    sent: int = 0
    faults: int = 0
    crashes: int = 0
    begun: float = 0.0
    reader: Reader | None = None
    n_ctx_over: int = 0
    """The context of a slot for which its prompt was too long."""

    @property
    def group(self) -> bytes:
        """The beginning that it shares with the others of its group."""
        return self.request.prefix or self.request.body[:BEGINNING_BYTES]


class Window:
    """Items that wait for an endpoint; those that were sent before come first."""

    def __init__(self, max_items: int = MAX_ITEMS) -> None:
        self.max_items = max_items
        self._again: deque[Work] = deque()
        self._groups: dict[bytes, deque[Work]] = {}
        self._group_of: dict[str, bytes] = {}  # by endpoint
        self._bytes = 0
        self._items = 0

    def __len__(self) -> int:
        return self._items

    @property
    def is_full(self) -> bool:
        """True where nothing more should be read."""
        return self._items >= self.max_items or self._bytes >= MAX_BYTES

    def add(self, work: Work) -> None:
        """Add an item that was read."""
        self._groups.setdefault(work.group, deque()).append(work)
        self._count(work, 1)

    def put_back(self, work: Work) -> None:
        """Add an item that was sent already."""
        self._again.append(work)
        self._count(work, 1)

    def take(self, endpoint: str, *, newest: bool = False) -> Work | None:
        """The next item for an endpoint; None where none waits.

        Args:
            newest: take the one that was read last: an endpoint that fails may do so because of those before.
        """
        if self._groups and newest:
            group = next(reversed(self._groups))
            queue = self._groups[group]
            work = queue.pop()
            if not queue:
                del self._groups[group]
        elif self._again:
            work = self._again.popleft()
        elif self._groups:
            last = self._group_of.get(endpoint)
            group = last if last in self._groups else self._next_group(endpoint)
            self._group_of[endpoint] = group
            queue = self._groups[group]
            work = queue.popleft()
            if not queue:
                del self._groups[group]
        else:
            return None
        self._count(work, -1)
        return work

    def _next_group(self, endpoint: str) -> bytes:
        """The oldest group that no other endpoint works on, else the oldest."""
        taken = {group for name, group in self._group_of.items() if name != endpoint}
        return next((group for group in self._groups if group not in taken), next(iter(self._groups)))

    def _count(self, work: Work, sign: int) -> None:
        self._items += sign
        self._bytes += sign * len(work.request.body)
