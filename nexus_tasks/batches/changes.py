"""Changes since a job was begun: of its input, of what is asked about it, and of the model and build that answer.

    found = changes.of_requests(given, folder.rows_index, new_index)
    raise changes.refusal("night", [str(found)])                # or, with --allow-change:
    log.write(changes.reopened(found.reopened, log.state, "its request changed"))

Only what differs is asked anew: an item whose request is the same keeps its result, wherever that came from.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from nexus_tasks.batches import index, journal
from nexus_tasks.batches.asking import Asking
from nexus_tasks.batches.entries import Answered, Entry, Reopened, SetAside
from nexus_tasks.batches.inputs import Input
from nexus_tasks.batches.items import KEY_BYTES
from nexus_tasks.batches.state import ANSWERED, OUTDATED, SET_ASIDE, Answerer, State
from nexus_tasks.core.errors import BatchError, UsageError
from nexus_tasks.core.text import plural

Items = npt.NDArray[np.intp]
ALLOW = "--allow-change"
_ITEMS_AT_ONCE = 10_000  # in one line of the journal


@dataclass(frozen=True)
class Requests:
    """Differences between the requests of an input, before and now.

    Args:
        differing: items that are in both and ask for something else.
        first: the place of the first of them, in words.
        rows: of those.
        added, gone: rows at the end that are new, and that are no longer there.
        gone_items: those of rows that are gone.
    """

    differing: Items
    first: str = ""
    rows: int = 0
    added: int = 0
    gone: int = 0
    gone_items: Items = field(default_factory=lambda: np.empty(0, np.intp))

    @property
    def reopened(self) -> Items:
        """Items whose results, where they have any, are no longer those of the input."""
        return np.concatenate([self.differing, self.gone_items])

    @property
    def are_any(self) -> bool:
        """True where there is a difference at all."""
        return bool(self.rows or self.added or self.gone)

    def __str__(self) -> str:
        parts = [
            f"{_rows(self.rows, 'differs', 'differ')}, the first on {self.first}" if self.rows else "",
            _rows(self.added, "is new", "are new") if self.added else "",
            _rows(self.gone, "is gone", "are gone") if self.gone else "",
        ]
        return "; ".join(filter(None, parts)) or "no request of it differs"


def of_requests(given: Input, before: Path, now: Path) -> Requests:
    """Compare the requests of an input, as two indices have their keys. Raises OSError."""
    old, new = _keys(before), _keys(now)
    both, samples = min(len(old), len(new)), given.asking.samples
    differing = np.flatnonzero((old[:both] != new[:both]).any(axis=1))
    rows = np.unique(differing // samples)
    return Requests(
        differing, _place(given, int(rows[0])) if len(rows) else "", len(rows),
        added=(len(new) - both) // samples, gone=(len(old) - both) // samples, gone_items=np.arange(both, len(old)),
    )  # fmt: skip


def keys_of_answers(path: Path, items: int, now: Path) -> bytes:
    """The index of an input before, where that is lost: an answer of the journal has its request's key.

    What is unfinished counts as not changed, as it is asked anyway, and what was set aside as changed.

    Args:
        path: of the journal.
        items: of the input as it was.
        now: the index of the input as it is.

    Raises:
        BatchError: the journal is damaged.
        OSError: an index can't be read.
    """
    unknown = b"\xff" * KEY_BYTES
    keys = bytearray(now.read_bytes()[: items * KEY_BYTES])
    keys += unknown * (items - len(keys) // KEY_BYTES)
    for _, entry in journal.entries(path) if path.exists() else ():
        if isinstance(entry, Answered | SetAside) and entry.item < items:
            key = bytes.fromhex(entry.key) if isinstance(entry, Answered) else unknown
            keys[entry.item * KEY_BYTES : (entry.item + 1) * KEY_BYTES] = key
    return bytes(keys)


def check_journal(path: Path, state: State) -> None:
    """Refuse a journal that was taken from another job: it has answers, and none is to a request of this one.

    Raises:
        BatchError: it is such a one.
    """
    outdated = state.count(OUTDATED)
    if outdated and not state.count(ANSWERED):
        raise BatchError(
            f"{path} is the journal of other requests: it has {plural(outdated, 'answer')}, none to a row of this job",
            hint=f"bring the job's own journal back, or begin another job; resume {ALLOW} asks the rows again",
        )


def of_asking(before: Asking, now: Asking) -> list[str]:
    """Differences of what is asked, each in words: ``temperature is 0.2 instead of 0.7``."""
    old, new = before.settings(), now.settings()
    return [
        f"{name} is {_shown(new.get(name))} instead of {_shown(old.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def of_servers(state: State, now: Iterable[Answerer]) -> tuple[list[str], Items]:
    """Differences between who answered and who would.

    Returns:
        Each in words, and the items that were answered by a model that nobody serves now.
    """
    known = {(one.model, one.build) for one in [*state.answers_by(), *state.servers.values()]}
    models = {one.model for one in now}
    if not known:
        return [], np.empty(0, np.intp)
    known_models = {model for model, _ in known}
    told = [
        f"{one.endpoint} serves {one.model} instead of {', '.join(sorted(known_models))}"
        if one.model not in known_models
        else f"{one.endpoint} has build {one.build} instead of {_builds(known, one.model)}"
        for one in now
        if (one.model, one.build) not in known
    ]
    others = [place for place, one in enumerate(state.answerers) if one.model not in models]
    by = np.frombuffer(state.answered_by, np.uint16)
    answered = np.frombuffer(state.of, np.uint8) == ANSWERED
    return told, np.flatnonzero(answered & np.isin(by, others))


def refusal(name: str, told: Iterable[str]) -> UsageError:
    """The refusal to go on with a job for which something changed."""
    return UsageError(
        f"the job {name} can't simply go on: {'; '.join(told)}",
        hint=f"{ALLOW} goes on and asks again only what differs or is unfinished; or begin another job",
    )


def reopened(items: Items, state: State, why: str) -> list[Entry]:
    """Entries by which those of some items that have a result are asked anew."""
    inside = items[items < state.total]
    done = inside[np.isin(np.frombuffer(state.of, np.uint8)[inside], (ANSWERED, SET_ASIDE))]
    parts = (done[first : first + _ITEMS_AT_ONCE] for first in range(0, len(done), _ITEMS_AT_ONCE))
    return [Reopened(part.tolist(), time.time(), why) for part in parts]


def _keys(path: Path) -> npt.NDArray[np.uint64]:
    """The keys of an index, two numbers each."""
    return np.fromfile(path, np.uint64).reshape(-1, KEY_BYTES // 8)


def _place(given: Input, row: int) -> str:
    """The place of a row, counted from 0, in words."""
    line, _ = next(islice(given.source.rows(), row, None))
    return index.place(given, line)


def _rows(count: int, one: str, several: str) -> str:
    return f"{plural(count, 'row')} {one if count == 1 else several}"


def _builds(known: set[tuple[str, str | None]], model: str) -> str:
    return ", ".join(sorted(str(build) for of, build in known if of == model))


def _shown(value: Any) -> str:
    """A value in few letters; a dash where there is none."""
    if value is None:
        return "not set"
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 40 else f"{text[:39]}…"
