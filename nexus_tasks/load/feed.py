"""The feed of the sender processes: which request goes to which process, when it is due, and whether it counts.

Processes are given requests ahead of time, so that they go on without waiting for this one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from nexus_tasks.load.arrivals import arrivals
from nexus_tasks.load.interrupts import Interrupts
from nexus_tasks.load.requests import Item, Limits, Request, Stage
from nexus_tasks.load.response import Answer
from nexus_tasks.load.sender import protocol
from nexus_tasks.load.sender_link import SenderLink

_HORIZON_S = 2.0
"""In an open loop, requests are handed to the processes so long before they are due."""
_RESERVE = 32
"""In a closed loop, a process has so many requests more than two for each of its users."""


@dataclass
class Handed:
    """A request that a process has, and what of its answer came so far."""

    number: int  # within the stage
    item: Item
    conversation: int
    turn: int
    phase: str  # warmup, ramp or run; in a closed loop, only its end tells ramp from run
    intended: float | None  # the moment at which it is due, in an open loop
    answer: Answer
    texts: tuple[str, ...]  # earlier answers of the conversation

    @property
    def request(self) -> Request:
        """The request itself."""
        return self.item.requests[self.turn]

    @property
    def has_next_turn(self) -> bool:
        """True where its conversation goes on after it."""
        return self.turn + 1 < len(self.item.requests)


class Feed:
    """Hands out the requests of a stage."""

    def __init__(
        self, links: Sequence[SenderLink], items: Iterator[Item], stage: Stage, limits: Limits, interrupts: Interrupts
    ) -> None:
        self.handed: dict[int, Handed] = {}
        """By number: the requests that have not ended."""
        self.begin = 0.0
        """The stage's; 0 before it is known."""
        self.exhausted = False
        """True when the items ended before the stage did."""
        self._links = links
        self._items = items
        self._stage = stage
        self._limits = limits
        self._interrupts = interrupts
        self._encoder = msgspec.msgpack.Encoder()
        self._arrivals = iter(()) if stage.is_closed_loop else arrivals(stage)
        self._due_s: float | None = None  # of the next arrival, after the stage's begin
        self._counts_from: float | None = None  # in an open loop: when the first request that counts is due
        self._count = 0  # requests that were handed out
        self._in_ramp = 0
        self._promised = 0  # later turns of conversations that were begun
        self._conversations = 0
        self._supplied = True  # whether there are more items to begin
        self._stopped = False  # whether nothing may begin any more, not even a later turn

    @property
    def is_done(self) -> bool:
        """True when all requests have ended, and none may begin."""
        return not self.handed and not self._allows()

    def stop(self) -> None:
        """Begin nothing any more."""
        self._supplied, self._stopped = False, True

    def fill(self) -> None:
        """Hand out what the processes need."""
        if self._interrupts.came:
            return
        if self._stage.is_closed_loop:
            self._fill_reserves()
        else:
            self._fill_horizon()
        for link in self._links:
            link.flush()

    def wait_s(self, longest_s: float) -> float:
        """The seconds during which nothing has to be handed out, at most ``longest_s``."""
        if self._due_s is None:
            return longest_s
        return min(longest_s, max(self.begin + self._due_s - time.perf_counter() - _HORIZON_S, 0))

    def settle_phase(self, done: Handed, begun: float) -> str:
        """The phase of a request that began at ``begun``: in a closed loop nobody knew before whether in the ramp."""
        stage = self._stage
        if done.phase == "run" and stage.is_closed_loop and stage.ramp_s and begun - self.begin < stage.ramp_s:
            self._in_ramp += 1
            return "ramp"
        return done.phase

    def next_turn(self, link: SenderLink, done: Handed, text: str) -> bool:
        """Go on with a conversation after an answer; False where there may be no further request."""
        if self._stopped or self._count >= self._budget():
            return False
        self._promised -= 1
        self._ask(link, done.item, done.conversation, done.turn + 1, (*done.texts, text), None)
        link.flush()
        return True

    def give_up(self, done: Handed) -> None:
        """End a conversation early."""
        self._promised -= len(done.item.requests) - done.turn - 1

    def _fill_reserves(self) -> None:
        # A round for each, so that none is empty while another's reserve is filled.
        while hungry := [link for link in self._links if link.outstanding < 2 * link.users + _RESERVE]:
            for link in hungry:
                if not self._allows():
                    return
                self._hand_out(link, None)

    def _fill_horizon(self) -> None:
        horizon = time.perf_counter() + _HORIZON_S
        while self.begin and self._allows():
            self._due_s = next(self._arrivals) if self._due_s is None else self._due_s
            due = self.begin + self._due_s
            if self._count >= self._stage.warmup and self._counts_from is None and self._due_s >= self._stage.ramp_s:
                self._counts_from = due
            duration_s, counts_from = self._stage.duration_s, self._counts_from
            if duration_s is not None and counts_from is not None and due >= counts_from + duration_s:
                self._supplied = False
            elif due > horizon:
                return
            else:
                self._hand_out(self._links[self._count % len(self._links)], due)
                self._due_s = None

    def _allows(self) -> bool:
        """True while one more request may be handed out. Those begun in the ramp are on top of those that count."""
        return self._supplied and not self._interrupts.came and self._count + self._promised < self._budget()

    def _budget(self) -> float:
        """The number of requests that there may be in all."""
        if self._stage.requests is None:
            return float("inf")
        return self._stage.warmup + self._stage.requests + self._in_ramp

    def _hand_out(self, link: SenderLink, due: float | None) -> None:
        item = next(self._items, None)
        if item is None:
            self.exhausted = True
            self._supplied = False
            return
        self._ask(link, item, self._conversations, 0, (), due)
        self._promised += len(item.requests) - 1
        self._conversations += 1

    def _ask(
        self, link: SenderLink, item: Item, conversation: int, turn: int, texts: tuple[str, ...], due: float | None
    ) -> None:
        request = item.requests[turn]
        body = request.body if isinstance(request.body, bytes) else request.body(texts)
        number = self._count
        phase = "warmup" if number < self._stage.warmup else "run"
        if phase == "run" and due is not None and due - self.begin < self._stage.ramp_s:
            phase = "ramp"
            self._in_ramp += 1
        needs_text = self._limits.keep_answers or any(callable(later.body) for later in item.requests[turn + 1 :])
        answer = Answer(request.path, stream=request.stream, keep_text=needs_text)
        handed = self.handed[number] = Handed(number, item, conversation, turn, phase, due, answer, texts)
        self._count += 1
        link.outstanding += 1
        ask = protocol.Ask(number, request.path, body, due, handed.has_next_turn, turn > 0, phase == "run")
        link.post(protocol.ASK, self._encoder.encode(ask))
