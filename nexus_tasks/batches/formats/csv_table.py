"""Rows of a CSV file: names of columns in its first line, separated by commas, semicolons or tabs.

    for line, fields in csv_table.rows(Path("prompts.csv")):
        fields()                    # {"prompt": "Why?", "topic": "sky"}

Texts in quotes may go over several lines. A row with another number of columns, with a stray quote, or that is no UTF-8
is set aside; a quote that is never closed would make one row of all that follows, and is refused. Empty lines are no
rows, those of empty cells are.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from nexus_tasks.batches.formats import MAX_ROW_BYTES, Fields, RawRow
from nexus_tasks.batches.formats.lines import not_utf8
from nexus_tasks.batches.items import CannotAsk
from nexus_tasks.core.errors import UsageError
from nexus_tasks.workloads.prompt_file import delimiter

if TYPE_CHECKING:
    import _csv  # where the type of csv's readers is

_UNDECODED = re.compile("[\udc80-\udcff]")  # bytes that are no UTF-8, as surrogateescape keeps them


def rows(path: Path) -> Iterator[RawRow]:
    """Rows of a CSV file.

    Raises:
        UsageError: it has no names of columns, or rows can't be told apart from some line on.
    """
    with _opened(path) as stream:
        table = _reader(path, stream)
        names = _names(path, table)
        while True:
            line = table.line_num + 1
            try:
                row = next(table)
            except StopIteration:
                return
            except csv.Error as error:
                _must_end(path, line, table.line_num, error)
                yield line, partial(_stray, line, table.line_num, str(error))
                continue
            if row:  # else the line is empty
                yield line, partial(_fields, names, row)


def columns(path: Path) -> tuple[str, ...]:
    """The names of a CSV file's columns; one without a name is called by its place.

    Raises:
        UsageError: it has none, or one twice.
    """
    with _opened(path) as stream:
        return _names(path, _reader(path, stream))


def _opened(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _reader(path: Path, stream: TextIO) -> _csv.Reader:
    csv.field_size_limit(MAX_ROW_BYTES)
    lines = _bounded(path, stream)
    head = next(lines, "")
    return csv.reader(itertools.chain([head], lines), strict=True, delimiter=delimiter(head))


def _bounded(path: Path, stream: TextIO) -> Iterator[str]:
    number = 0
    while line := stream.readline(MAX_ROW_BYTES):
        number += 1
        if len(line) == MAX_ROW_BYTES and line[-1] not in "\r\n":
            raise UsageError(
                f"{path}, line {number} has more than {MAX_ROW_BYTES >> 20} MiB", hint="is this a CSV file?"
            )
        yield line


def _names(path: Path, table: _csv.Reader) -> tuple[str, ...]:
    try:
        given = [name.replace("\ufeff", "").strip() for name in next(table, [])]
    except csv.Error as error:
        raise UsageError(
            f"{path}, line 1: {error}", hint="the first line of a CSV file has the names of its columns"
        ) from error
    names = tuple(name or f"column {place}" for place, name in enumerate(given, start=1))
    if not any(given):
        raise UsageError(f"{path}, line 1 names no columns", hint="write their names into the first line, as id,prompt")
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise UsageError(f"{path}, line 1: two columns are named {twice}", hint="rename one of them")
    if any(map(_UNDECODED.search, names)):
        raise UsageError(f"{path}, line 1 is not UTF-8", hint="save the file as UTF-8")
    return names


def _must_end(path: Path, first: int, last: int, error: csv.Error) -> None:
    """Refuse a quote that swallows the file: at its end, or once it holds more than any row does."""
    if "unexpected end of data" in str(error) or "field limit" in str(error):
        raise UsageError(
            f"{path}, line {first}: a quote opens a text that does not end by line {last}",
            hint="close it, or double a quote that is part of the text",
        ) from error


def _stray(first: int, last: int, problem: str) -> Fields:
    where = "" if first == last else f" (lines {first} to {last})"
    raise CannotAsk("malformed", f"not CSV{where}: {problem}; double a quote that is part of a text")


def _fields(names: Sequence[str], row: Sequence[str]) -> Fields:
    if len(row) != len(names):
        raise CannotAsk("malformed", f"it has {len(row)} columns instead of {len(names)}")
    for name, value in zip(names, row, strict=True):
        if not value.isascii() and (found := _UNDECODED.search(value)):
            place = len(value[: found.start()].encode()) + 1
            raise not_utf8(f"byte {place} of column {name}", ord(found[0]) - 0xDC00)
    return dict(zip(names, row, strict=True))
