"""Rows of an export: each item of a job with what came of it.

    for row in rows.rows(given, state, results):
        row.id, row.metadata, row.answer, row.error

The input is read again for ids and metadata, and each result where it stands in the journal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec

from nexus_tasks.batches import inputs, journal
from nexus_tasks.batches.entries import Answer, Answered, Entry, SetAside, Usage
from nexus_tasks.batches.inputs import Input
from nexus_tasks.batches.items import Item
from nexus_tasks.batches.job import Folder, Job
from nexus_tasks.batches.state import ANSWERED, SET_ASIDE, State
from nexus_tasks.core.errors import UsageError

PENDING = "pending"
"""The kind of error of an item that has no result yet."""


class Error(msgspec.Struct, frozen=True):
    """The reason for which an item has no answer."""

    kind: str
    message: str


class ExportRow(msgspec.Struct, omit_defaults=True):
    """An item and what came of it: an answer, or else an error.

    Args:
        row: number of the input's row, from 1.
        metadata: columns of the input that are no part of the request.
        path: that was asked, as ``/v1/chat/completions``; None of a row that can't be asked.
        at: when it ended, by the wall clock in seconds.
    """

    row: int
    line: int
    id: str
    metadata: dict[str, Any]
    sample: int = 0
    path: str | None = None
    at: float | None = None
    answer: Answer | None = None
    usage: Usage = msgspec.field(default_factory=Usage)
    model: str | None = None
    build: str | None = None
    valid: bool | None = None
    invalid_reason: str | None = None
    error: Error | None = None


def rows(given: Input, state: State, results: journal.Results | None) -> Iterator[ExportRow]:
    """A row for each item, in the order of the input.

    Args:
        results: of the job's journal; None where there is none yet.

    Raises:
        UsageError: the input can't be read.
        BatchError: a result was damaged.
    """
    for item in inputs.items(given):
        if item.index >= state.total:  # it grew since it was checked
            return
        done = state.of[item.index] in (ANSWERED, SET_ASIDE)
        yield _row(given, item, results.at(state.offsets[item.index]) if done and results else None)


def check_input(folder: Folder, job: Job) -> None:
    """Refuse an input that is not the one of the job: its rows would get results of others.

    Raises:
        UsageError: it changed, or can't be read.
    """
    path = job.input.source.file
    hint = "bring the file back that the job was begun with, or resume the job with the new one first"
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(
            f"{path}, the input of the job {folder.name}, can't be read: {error.strerror}", hint=hint
        ) from error
    if found != job.index.sha256:
        raise UsageError(f"{path}, the input of the job {folder.name}, changed since", hint=hint)


def _row(given: Input, item: Item, result: Entry | None) -> ExportRow:
    row = ExportRow(
        item.row.number, item.row.line, item.row.id, given.columns.metadata(item.row.fields), item.sample,
        path=item.request.path if item.request else None,
    )  # fmt: skip
    match result:
        case Answered():
            row.at, row.answer, row.usage = result.at, result.answer, result.usage
            row.model, row.build = result.model, result.build
            row.valid, row.invalid_reason = result.valid, result.invalid_reason
        case SetAside():
            row.at, row.error = result.at, Error(result.kind, result.message)
        case _:
            row.error = Error(PENDING, "has no answer yet")
    return row
