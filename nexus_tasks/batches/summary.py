"""Summary of a job: how far it is and what it has cost, for ``status`` and ``list``.

summary = summary_of(folder)                # beside a process that may be working on it
summary.state, summary.answered, summary.remaining_s
"""

from __future__ import annotations

from typing import Any

import msgspec

from nexus_tasks.batches import journal
from nexus_tasks.batches.entries import SetAside
from nexus_tasks.batches.job import CANCELLED, Folder, Job
from nexus_tasks.batches.options import COMPLETE, INTERRUPTED
from nexus_tasks.batches.state import ANSWERED, BEGUN, State
from nexus_tasks.hostlib.locks import Holder
from nexus_tasks.stats.energy import EnergySum


class Example(msgspec.Struct, frozen=True):
    """A row that failed, by its number from 1, and why."""

    row: int
    message: str


class Summary(msgspec.Struct, frozen=True):
    """A job as ``status`` and ``list`` show it.

    Args:
        state: ``running``, ``complete``, ``interrupted``, ``cancelled``, ``killed`` (its process ended without a word),
            ``failed`` (``ended`` says why) or ``new``.
        holder: the process that works on it.
        examples: the first row that failed for each reason.
        tokens: of all answers.
        retried: attempts that failed, by kind.
        energy: of the servers' GPUs, as far as it is known.
        joules_per_token: None where ``energy`` is a lower bound.
        rows_per_s: of the last session; None where it did nothing yet.
    """

    name: str
    folder: str
    state: str
    created_at: str
    input: str
    targets: list[str]
    items: int
    answered: int
    set_aside: dict[str, int]
    examples: dict[str, Example]
    under_way: int
    remaining: int
    tokens: dict[str, int]
    retried: dict[str, int]
    invalid: int
    twins: int
    answers_by: list[dict[str, Any]]
    holder: str | None = None
    ended: str | None = None
    rows_per_s: float | None = None
    remaining_s: float | None = None
    energy: EnergySum | None = None
    joules_per_token: float | None = None


def summary_of(folder: Folder) -> Summary:
    """A job and how far it is, beside a process that may be working on it.

    Raises:
        BatchError: its files are damaged.
    """
    job, holder = folder.load(), folder.holder()
    items = job.index.items
    return made(folder, job, journal.read(folder.journal, items, folder.keys(items)), holder)


def made(folder: Folder, job: Job, state: State, holder: Holder | None = None) -> Summary:
    """The summary of a job in a state that is known."""
    set_aside = state.set_aside()
    remaining = state.total - state.done
    rate = state.rows_per_s
    return Summary(
        name=folder.name, folder=str(folder.path), state=state_of(state, holder), created_at=job.created_at,
        input=job.input.source.path, targets=job.targets, items=state.total, answered=state.count(ANSWERED),
        set_aside=set_aside, examples=_examples(folder, job, state),
        under_way=state.count(BEGUN) if holder else 0, remaining=remaining,
        tokens={"prompt": state.tokens.prompt, "output": state.tokens.output, "cached": state.tokens.cached},
        retried=dict(state.failures.most_common()), invalid=state.invalid, twins=state.twins,
        answers_by=[
            {"endpoint": one.endpoint, "model": one.model, "build": one.build, "answered": count}
            for one, count in state.answers_by().items()
        ],
        holder=str(holder) if holder else None, ended=None if holder else state.ended, rows_per_s=rate,
        remaining_s=remaining / rate if holder and rate else None,
        energy=state.energy, joules_per_token=state.joules_per_token,
    )  # fmt: skip


def _examples(folder: Folder, job: Job, state: State) -> dict[str, Example]:
    first, examples = state.first_set_aside(), {}
    if first:
        with journal.Results(folder.journal) as results:
            for kind, item in first.items():
                entry = results.at(state.offsets[item])
                message = entry.message if isinstance(entry, SetAside) else ""
                examples[kind] = Example(item // job.input.asking.samples + 1, message)
    return examples


def state_of(state: State, holder: Holder | None) -> str:
    """The state of a job in a word, as :class:`Summary` has it."""
    if holder:
        return "running"
    if state.total and state.done == state.total:  # whatever became of the process that did the last
        return COMPLETE
    if state.began_at is None:
        return CANCELLED if state.ended == CANCELLED else "new"
    if state.ended == COMPLETE:  # until rows were reopened by a process that asked none of them
        return INTERRUPTED
    if state.ended in (INTERRUPTED, CANCELLED):
        return state.ended
    return "killed" if state.ended is None else "failed"
