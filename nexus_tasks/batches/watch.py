"""Watch over one endpoint of a batch: what it is, whether it is there, and how many of its slots others use.

    watch.went_away("connection refused")       # asked from then on, with growing pauses, until it is back
    watch.sweep(under_way=3)                    # several times a second
    watch.server, watch.problem, watch.died

The looks block, and are taken in threads. An endpoint that comes back with another model stays unused.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

from nexus_tasks.batches import endpoint as endpoints
from nexus_tasks.batches.endpoint import Found, Reached
from nexus_tasks.batches.failures import backoff_s
from nexus_tasks.core.errors import NexusError, Unauthorized
from nexus_tasks.servers import scrape
from nexus_tasks.servers.endpoint import LLAMA_CPP

T = TypeVar("T")

FIRST_LOOK_S, MAX_LOOK_S = 0.2, 10.0
"""Pauses between two looks at an endpoint that is away."""
SLOTS_S = 2.0
"""Pause between two looks at the slots."""


class Watch:
    """State of an endpoint, kept up to date.

    Args:
        model: the one that has to be there.
        on_found: gets the server whenever it is there anew.
        wake: called when there is news.

    Attributes:
        server: None while it is away.
        total_slots: None where the server has none to tell.
        others: slots that other clients use.
        problem: why it is away.
        is_lost: whether it stays away for the rest of the run.
        died: of the last time that it went away, whether nothing answered there; None until that is known.
        error: one that is the code's own, to be raised.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        reached: Reached,
        model: str,
        on_found: Callable[[Found], None],
        wake: Callable[[], None],
    ) -> None:
        self.server = reached.server
        self.problem = reached.problem
        self.others = 0
        self.is_lost = reached.is_lost
        self.died: bool | None = None
        self.error: Exception | None = None
        self._loop, self._access, self._model = loop, reached.access, model
        self._on_found, self._wake = on_found, wake
        self._is_looking = False
        self._looks = 0
        self._next_look = 0.0
        self._slots_url = ""
        self._slots: scrape.Source | None = None
        if reached.found is not None:
            self._watch_slots(reached.found)
        self._using_slots = threading.Lock()
        self._slots_at = 0.0
        self._others_before = 0

    @property
    def total_slots(self) -> int | None:
        """Slots of the server."""
        return self.server.total_slots if self.server else None

    def went_away(self, problem: str) -> None:
        """Take it for away until it answers what it is."""
        if self.server is None:
            return
        self.server, self.problem, self.died = None, problem, None
        if self._looks:  # it went away again before it answered anything
            self._look_later()
        else:
            self._next_look = 0.0
        self.sweep(0)

    def proved(self) -> None:
        """Note that it answers: when it goes away, the first look need not wait."""
        self._looks = 0

    def lose(self, problem: str) -> None:
        """Use it no more in this run."""
        self.is_lost, self.server, self.problem = True, None, problem

    def sweep(self, under_way: int) -> None:
        """Look at it where it is time to; ``under_way`` are the batch's own requests there."""
        now = perf_counter()
        if self._is_looking or self.is_lost:
            return
        if self.server is None:
            if now >= self._next_look:
                self._is_looking = True
                aside(self._loop, self._access.ask, self._looked)
        elif self._slots is not None and now >= self._slots_at:
            self._is_looking = True
            self._slots_at = now + SLOTS_S
            slots = self._slots
            aside(self._loop, lambda: self._look_at(slots), lambda look: self._saw_slots(look, under_way))

    def close(self) -> None:
        """Look no more."""
        self.is_lost = True
        if self._slots is not None and self._using_slots.acquire(blocking=False):
            self._slots.close()
            self._using_slots.release()

    def _look_at(self, slots: scrape.Source) -> scrape.Look:
        """Look at the slots, in a thread."""
        with self._using_slots:
            look = slots.look()
        if self.is_lost:  # the run has ended meanwhile, and left this to be closed here
            slots.close()
        return look

    def _looked(self, found: Found | Exception) -> None:
        self._is_looking = False
        if self.is_lost:
            return
        match found:
            case Found() if found.server.model == self._model:
                self.died = bool(self.died)
                self._use(found)
            case Found():
                self.died = True
                self.problem = f"serves {found.server.model} instead of {self._model}: it is not used"
            case Unauthorized():
                self.lose(endpoints.problem_of(found))
            case NexusError():
                self.died = True
                self.problem = endpoints.problem_of(found)
            case error:
                self.error = error
        self._look_later()
        self._wake()

    def _use(self, found: Found) -> None:
        self._on_found(found)
        self.server, self.problem = found.server, None
        self._watch_slots(found)
        self.others = self._others_before = 0
        self._slots_at = perf_counter() + SLOTS_S

    def _watch_slots(self, found: Found) -> None:
        """Look at the slots where the server has some to tell; its address changes with its tunnel."""
        target = found.target
        if found.server.engine == LLAMA_CPP and target.base_url != self._slots_url:
            if self._slots is not None:
                self._slots.close()
            self._slots_url = target.base_url
            self._slots = scrape.Source(target.name, target.base_url, target.api_key, wants=scrape.Server)

    def _look_later(self) -> None:
        pause_s = backoff_s(self._looks, first_s=FIRST_LOOK_S, max_s=MAX_LOOK_S)
        self._looks += 1
        self._next_look = perf_counter() + max(pause_s, FIRST_LOOK_S / 2)

    def _saw_slots(self, look: scrape.Look | Exception, before: int) -> None:
        self._is_looking = False
        if isinstance(look, Exception):
            self.error = look
        elif look.server is not None and look.server.slots_busy is not None:
            # A request that ended or began during the look is no other client's: what two looks see is.
            others = max(look.server.slots_busy + (look.server.waiting or 0) - before, 0)
            self.others, self._others_before = min(others, self._others_before), others


def aside(loop: asyncio.AbstractEventLoop, call: Callable[[], T], then: Callable[[T | Exception], None]) -> None:
    """Call a function in a thread that holds up neither the loop nor the end of the process.

    ``then`` gets its result, or its error, in the loop.
    """

    def run() -> None:
        result: T | Exception
        try:
            result = call()
        except Exception as error:
            result = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(then, result)

    threading.Thread(target=run, name="batch-look", daemon=True).start()
