"""Rows that are lines: a prompt a line (TXT), or a JSON value a line (JSONL).

    for line, fields in lines.jsonl(Path("prompts.jsonl")):
        fields()

Lines end with LF or CRLF; empty ones are no rows. Each line stands for itself: one that is damaged, or no UTF-8, is set
aside, and the others are read. A byte order mark is no part of a line: files that were joined have one in the middle.
"""

from __future__ import annotations

import codecs
import contextlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec

from nexus_tasks.batches.formats import MAX_ROW_BYTES, TEXT, Fields, RawRow
from nexus_tasks.batches.items import CannotAsk

_BUFFER = 1 << 20
_decode = msgspec.json.Decoder().decode


def txt(path: Path) -> Iterator[RawRow]:
    """Rows of a text file: each line is a prompt, spaces at its ends included."""
    for number, line in _lines(path):
        if line is None or line.strip():
            yield number, partial(_text_of, line)


def jsonl(path: Path) -> Iterator[RawRow]:
    """Rows of a JSONL file: an object a line, or a text, which is a prompt."""
    for number, line in _lines(path):
        if line is None or line.strip():
            yield number, partial(_value_of, line)


def fields_of(data: bytes) -> Fields:
    """The columns of a row in JSON.

    Raises:
        CannotAsk: it is not JSON, or neither an object nor a text.
    """
    try:
        value = _decode(data)
    except UnicodeDecodeError:
        decoded(data)  # knows the byte's place in the row
        raise
    except msgspec.DecodeError as error:
        raise CannotAsk("malformed", _json_problem(str(error), data)) from error
    except RecursionError as error:
        raise CannotAsk("malformed", "not JSON that can be read: it is nested too deeply") from error
    if isinstance(value, str):
        return {TEXT: value}
    if not isinstance(value, dict):
        raise CannotAsk("malformed", f"it is {_kind(value)} instead of an object or a text")
    return value


def decoded(data: bytes) -> str:
    """UTF-8 as text.

    Raises:
        CannotAsk: it is none; the message names the byte, counted from 1.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise not_utf8(f"byte {error.start + 1}", data[error.start]) from error


def not_utf8(place: str, byte: int) -> CannotAsk:
    """The error of a row that has a byte which is no UTF-8."""
    return CannotAsk("malformed", f"{place} (0x{byte:02x}) is not UTF-8: save the file as UTF-8")


def _text_of(line: bytes | None) -> Fields:
    return {TEXT: decoded(_small(line).removesuffix(b"\n").rstrip(b"\r"))}


def _value_of(line: bytes | None) -> Fields:
    return fields_of(_small(line).strip())


def _small(line: bytes | None) -> bytes:
    if line is None:
        raise CannotAsk("too_large", f"the line has more than {MAX_ROW_BYTES >> 20} MiB")
    return line


def _lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their numbers; None stands for one that is too large to be held."""
    with path.open("rb", buffering=_BUFFER) as stream:
        number = 0
        while line := stream.readline(MAX_ROW_BYTES):
            number += 1
            whole = len(line) < MAX_ROW_BYTES or line.endswith(b"\n")
            if not whole:
                _skip_line(stream)
            while line.startswith(codecs.BOM_UTF8):
                line = line.removeprefix(codecs.BOM_UTF8)
            yield number, line if whole else None


def _skip_line(stream: BinaryIO) -> None:
    while (part := stream.readline(_BUFFER)) and not part.endswith(b"\n"):
        pass


def _json_problem(message: str, data: bytes) -> str:
    """msgspec's words for what is no JSON; it calls half a surrogate pair at the end of a text truncated input."""
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(data)  # which takes halves
        if b"\\ud" in data.lower():
            return "it has half a surrogate pair (\\ud800 to \\udfff), which is no letter"
    return f"not JSON: {message.removeprefix('JSON is malformed: ')}"


def _kind(value: object) -> str:
    return "a list" if isinstance(value, list) else "null" if value is None else "a number, true or false"
