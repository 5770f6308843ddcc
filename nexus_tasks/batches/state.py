"""State of a batch: of each item whether it is new, under way, answered or set aside, as its journal says.

    state = State(total=1_000_000)
    state.apply(b'{"type":"begun","items":[0,1],"endpoint":"gpu1/main","at":0}', offset=0)
    state.of[0] == BEGUN, state.count(ANSWERED), state.offsets[0]

It has a few bytes an item, and of the journal's entries it decodes no more than it counts: an answer's text is skipped.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from nexus_tasks.batches.entries import KINDS
from nexus_tasks.batches.items import KEY_BYTES
from nexus_tasks.stats.energy import EnergySum, added

NEW, BEGUN, ANSWERED, SET_ASIDE, OUTDATED = range(5)
"""States of an item; one that is outdated has the answer to a request that is no longer its own."""
NO_OFFSET = 2**64 - 1
NO_REASON = len(KINDS)
_KIND_PLACES = {kind: place for place, kind in enumerate(KINDS)}
_BEGUN_TO_NEW = bytes([NEW, NEW, ANSWERED, SET_ASIDE, OUTDATED]).ljust(256, b"\0")


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None


_NO_USAGE = _Usage()


class _Begun(msgspec.Struct, tag="begun"):
    items: list[int]


class _Answered(msgspec.Struct, tag="answered"):
    item: int
    key: str
    at: float
    endpoint: str
    model: str
    build: str | None = None
    usage: _Usage = _NO_USAGE
    valid: bool | None = None
    same_as: int | None = None


class _Failed(msgspec.Struct, tag="failed"):
    item: int
    kind: str


class _SetAside(msgspec.Struct, tag="set_aside"):
    item: int
    at: float
    kind: str


class _Reopened(msgspec.Struct, tag="reopened"):
    items: list[int]


class _Server(msgspec.Struct, tag="server"):
    endpoint: str
    model: str
    build: str | None = None


class _Session(msgspec.Struct, tag="session"):
    at: float
    ended: str | None = None
    energy: EnergySum | None = None


_Counted = _Begun | _Answered | _Failed | _SetAside | _Reopened | _Server | _Session
_decode = msgspec.json.Decoder(_Counted).decode


@dataclass(frozen=True)
class Answerer:
    """A server that answered items: its endpoint, model and build."""

    endpoint: str
    model: str
    build: str | None


@dataclass
class Tokens:
    """Tokens of all answers, those of reopened items, too: what the batch has cost."""

    prompt: int = 0
    output: int = 0
    cached: int = 0


class State:
    """The journal's entries, reduced: a few bytes for each of ``total`` items.

    ``of`` has the state of each item; ``offsets`` the place of the entry in the journal that answered it or set it
    aside; ``reasons`` the index in
    KINDS of what it was set aside for; ``answered_by`` the index in ``answerers`` of who answered it.

    Args:
        keys: of the items' requests, KEY_BYTES each in order, by which an answer counts for its item; None where they
            are not known, and all count.
    """

    def __init__(self, total: int, keys: bytes | None = None) -> None:
        self.total = total
        self._keys = keys
        self.of = bytearray(total)
        self.offsets = array("Q", [NO_OFFSET]) * total
        self.reasons = bytearray([NO_REASON]) * total
        self.answered_by = array("H", [0]) * total
        self.answerers: list[Answerer] = []
        self.tokens = Tokens()
        self.failures: Counter[str] = Counter()
        """Attempts that failed, by kind."""
        self.invalid = 0
        """Answers that did not satisfy their schema."""
        self.twins = 0
        """Items that got the answer of an identical one."""
        self.servers: dict[str, Answerer] = {}
        """By endpoint, as each was found last."""
        self.began_at: float | None = None
        self.session_at: float | None = None
        """The beginning of the last session."""
        self.last_at: float | None = None
        """The end of the last item."""
        self.session_done = 0
        """Items that were answered or set aside in the last session."""
        self.ended: str | None = None
        """The end of the last session: None while it runs, or where it was killed."""
        self._places: dict[Answerer, int] = {}
        self._energy: EnergySum | None = None
        self._unmetered = 0  # sessions of which no energy is known

    def count(self, state: int) -> int:
        """The number of items that are in a state."""
        return self.of.count(state)

    @property
    def done(self) -> int:
        """The number of items that are answered or set aside."""
        return self.count(ANSWERED) + self.count(SET_ASIDE)

    @property
    def rows_per_s(self) -> float | None:
        """Items that were done per second of the last session; None where there are none, or no time passed."""
        if self.session_at is None or self.last_at is None or self.last_at <= self.session_at or not self.session_done:
            return None
        return self.session_done / (self.last_at - self.session_at)

    @property
    def energy(self) -> EnergySum | None:
        """The energy of all sessions, at least that of those that told it; None where none did."""
        if self._energy is None or not self._unmetered:
            return self._energy
        return msgspec.structs.replace(self._energy, at_least=True)

    @property
    def joules_per_token(self) -> float | None:
        """Energy for each token of the answers; None where the energy is a lower bound, or there are none."""
        if self.energy is None or self.energy.at_least or not self.tokens.output:
            return None
        return self.energy.joules / self.tokens.output

    def items(self, state: int) -> npt.NDArray[np.intp]:
        """The items that are in a state, in order."""
        return np.flatnonzero(np.frombuffer(self.of, np.uint8) == state)

    def set_aside(self) -> dict[str, int]:
        """The number of items that are set aside by kind, the most frequent first."""
        mask = np.frombuffer(self.of, np.uint8) == SET_ASIDE
        counts = np.bincount(np.frombuffer(self.reasons, np.uint8)[mask], minlength=NO_REASON)
        found = {KINDS[kind]: int(count) for kind, count in enumerate(counts[:NO_REASON]) if count}
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))

    def first_set_aside(self) -> dict[str, int]:
        """The first item that is set aside for each kind of reason."""
        items = self.items(SET_ASIDE)
        kinds, places = np.unique(np.frombuffer(self.reasons, np.uint8)[items], return_index=True)
        return {KINDS[kind]: int(items[place]) for kind, place in zip(kinds, places, strict=True) if kind < NO_REASON}

    def answers_by(self) -> dict[Answerer, int]:
        """The number of items that each server answered, the most first."""
        mask = np.frombuffer(self.of, np.uint8) == ANSWERED
        counts = np.bincount(np.frombuffer(self.answered_by, np.uint16)[mask], minlength=len(self.answerers))
        by = {one: int(count) for one, count in zip(self.answerers, counts, strict=False) if count}
        return dict(sorted(by.items(), key=lambda pair: -pair[1]))

    def apply(self, entry: bytes, offset: int) -> None:
        """Take one entry of the journal, which begins there.

        Raises:
            msgspec.DecodeError, msgspec.ValidationError: it is none.
        """
        match _decode(entry):
            case _Answered() as answered:
                self._answer(answered, offset)
            case _Begun(items):
                for item in items:
                    self._begin(item)
            case _Failed(item, kind):
                self.failures[kind] += 1
                if item < self.total and self.of[item] == BEGUN:
                    self.of[item] = NEW
            case _SetAside() as given_up:
                self._set_aside(given_up, offset)
            case _Reopened(items):
                for item in items:
                    self._reopen(item)
            case _Server(endpoint, model, build):
                self.servers[endpoint] = Answerer(endpoint, model, build)
            case _Session(at, ended, energy):
                self._session(at, ended)
                if energy:
                    self._meter(energy)

    # Items beyond the total are rows that the input no longer has.

    def _begin(self, item: int) -> None:
        if item < self.total and self.of[item] not in (ANSWERED, SET_ASIDE):
            self.of[item] = BEGUN

    def _answer(self, answered: _Answered, offset: int) -> None:
        item, usage = answered.item, answered.usage
        if item >= self.total or self._is_answered(item, answered.model):
            return
        if self._keys is None or self._keys[item * KEY_BYTES : (item + 1) * KEY_BYTES].hex() == answered.key:
            self.of[item], self.offsets[item] = ANSWERED, offset
            self.answered_by[item] = self._place(Answerer(answered.endpoint, answered.model, answered.build))
        elif self.of[item] != ANSWERED:
            self._reopen(item)
            self.of[item] = OUTDATED
        self._progress(answered.at)
        self.invalid += answered.valid is False
        if answered.same_as is not None:
            self.twins += 1
            return
        self.tokens.prompt += usage.prompt_tokens or 0
        self.tokens.output += usage.output_tokens or 0
        self.tokens.cached += usage.cached_tokens or 0

    def _is_answered(self, item: int, model: str) -> bool:
        """True where a model has answered an item: its answer is accepted once. Where another model answers after it,
        the entry that reopened the item is lost.
        """
        return self.of[item] == ANSWERED and self.answerers[self.answered_by[item]].model == model

    def _set_aside(self, given_up: _SetAside, offset: int) -> None:
        item = given_up.item
        if item < self.total and self.of[item] != ANSWERED:
            self.of[item], self.offsets[item] = SET_ASIDE, offset
            self.reasons[item] = _KIND_PLACES.get(given_up.kind, NO_REASON)
            self._progress(given_up.at)

    def _reopen(self, item: int) -> None:
        if item < self.total:
            self.of[item], self.offsets[item], self.reasons[item] = NEW, NO_OFFSET, NO_REASON

    def _session(self, at: float, ended: str | None) -> None:
        if ended is None:
            self.began_at = at if self.began_at is None else self.began_at
            self.session_at = self.last_at = at
            self.session_done = 0
            self._unmetered += 1
        self.of[:] = self.of.translate(_BEGUN_TO_NEW)
        self.ended = ended

    def _meter(self, energy: EnergySum) -> None:
        """The energy of the session that ends."""
        self._energy = added(self._energy, energy) if self._energy else energy
        self._unmetered -= 1

    def _progress(self, at: float) -> None:
        self.last_at = at
        self.session_done += 1

    def _place(self, answerer: Answerer) -> int:
        place = self._places.get(answerer)
        if place is None:
            place = self._places[answerer] = len(self.answerers)
            self.answerers.append(answerer)
        return place
