"""Items of a batch: rows of the input, and the requests that they become.

    row = Row(number=3, line=4, id="q-3", fields={"prompt": "Why?", "topic": "sky"})
    request = Request("/v1/chat/completions", b'{"messages": ...}', key, schema=None)
    item = Item(index=2, row=row, sample=0, request=request)

A *row* is what the input says, an *item* one request of it: as many as samples are wanted. Items are numbered in the
order of the input, and the journal and everything after it knows them by that index. A row that can't be asked is an
item, too: one with a :class:`Misfit` in place of its request.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec

from nexus_tasks.hostlib.terminal_text import plain, shortened

KEY_BYTES = 16
SCHEMA_NAME_LETTERS = 60


class Row(msgspec.Struct, frozen=True):
    """A row of the input.

    Args:
        number: its place among the rows, from 1.
        line: of the file, from 1, at which it begins; its number where the format has no lines.
        id: the input's own, else the line as text.
        fields: all columns by name, as the input has them; what is no part of the request is metadata.
    """

    number: int
    line: int
    id: str
    fields: dict[str, Any]


class Misfit(msgspec.Struct, frozen=True):
    """The reason for which a row can't be asked: ``kind`` is one of :data:`MISFITS`, ``message`` one line."""

    kind: str
    message: str


MISFITS = ("malformed", "no_prompt", "template", "schema", "parameter", "too_large")
_SHOWN = 300


class CannotAsk(Exception):
    """A row can't be asked; its reader sets it aside with this misfit.

    Args:
        kind: one of :data:`MISFITS`.
        message: the reason, which may quote the row; it becomes one line.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.misfit = Misfit(kind, shortened(" ".join(plain(message).split()), _SHOWN))


class Request(msgspec.Struct, frozen=True):
    """One HTTP request of a batch, as it is sent to whichever server is free.

    Args:
        path: below the base URL, such as ``/v1/chat/completions``.
        body: JSON without the model's name, which belongs to the server: it is put in when the request is sent.
        key: digest of path and body, KEY_BYTES long: two requests of one key ask the same.
        stream: whether the answer is a stream of events.
        schema: JSON Schema that the answer must satisfy; None where any answer will do.
        prefix: digest of what it begins with (the system prompt and template), by which requests that share a prefix
            are kept together; None where nothing is shared.
    """

    path: str
    body: bytes
    key: bytes
    stream: bool = True
    schema: dict[str, Any] | bool | None = None
    prefix: bytes | None = None


class Item(msgspec.Struct, frozen=True):
    """A request of a batch: sample number ``sample`` (from 0) of a row.

    Exactly one of ``request`` and ``misfit`` is set.
    """

    index: int
    row: Row
    sample: int
    request: Request | None = None
    misfit: Misfit | None = None


def schema_name(schema: dict[str, Any] | bool) -> str:
    """Name of a schema, by which its answers are counted together: its title, else a digest of it."""
    title = schema.get("title") if isinstance(schema, dict) else None
    if isinstance(title, str) and title.strip():
        return " ".join(title.split())[:SCHEMA_NAME_LETTERS]
    canonical = json.dumps(schema, sort_keys=True, separators=(",", ":"))
    return f"schema {hashlib.blake2b(canonical.encode(), digest_size=4).hexdigest()}"
