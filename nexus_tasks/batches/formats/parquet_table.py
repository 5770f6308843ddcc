"""Rows of a Parquet file, a few at a time.

    for line, fields in parquet_table.rows(Path("prompts.parquet")):
        fields()                    # {"prompt": "Why?", "topic": "sky"}

A row's line is its number, from 1. Values become what JSON has: moments are texts as ISO 8601 writes them, or as Arrow
does where Python can't, bytes are base64, decimal numbers are texts, and numbers that are none (NaN) are null.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from pyarrow import parquet

from nexus_tasks.batches.formats import Fields, RawRow
from nexus_tasks.batches.items import CannotAsk
from nexus_tasks.core.errors import UsageError

_ROWS_AT_ONCE = 256
_BYTES_AT_ONCE = 8 << 20
_BUFFER_BYTES = 1 << 20
_NO_VALUE = (ValueError, OverflowError, pa.ArrowException)


def rows(path: Path) -> Iterator[RawRow]:
    """Rows of a Parquet file.

    Raises:
        UsageError: it is damaged.
    """
    number = 0
    try:
        with parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES) as file:
            for batch in file.iter_batches(_rows_at_once(file.metadata), use_threads=False):
                for place in range(batch.num_rows):
                    number += 1
                    yield number, partial(_fields, batch, place)
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # of the system's; Arrow's own have none
            raise
        raise _damaged(path, number, error) from error


def columns(path: Path) -> tuple[str, ...]:
    """The names of a Parquet file's columns.

    Raises:
        UsageError: it is damaged, or two columns have one name.
    """
    try:
        names = tuple(parquet.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # of the system's; Arrow's own have none
            raise
        raise _damaged(path, 0, error) from error
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise UsageError(f"{path}: two columns are named {twice}", hint="rename one of them")
    return names


def _rows_at_once(metadata: Any) -> int:
    """As many rows as are surely held, by what they have in the mean."""
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    largest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=0)
    return max(1, min(_ROWS_AT_ONCE, int(_BYTES_AT_ONCE / max(1, largest))))


def _damaged(path: Path, number: int, error: Exception) -> UsageError:
    after = f" after row {number}" if number else ""
    return UsageError(f"{path} is damaged{after}: {' '.join(str(error).split())[:200]}", hint="write it anew")


def _fields(batch: Any, place: int) -> Fields:
    pairs = zip(batch.schema.names, batch.columns, strict=True)
    return {name: _plain(_value(name, column[place])) for name, column in pairs}


def _value(name: str, given: Any) -> Any:
    """The value of a column in Python, or as Arrow writes it where Python has none such: dates beyond the year 9999."""
    try:
        return given.as_py()
    except UnicodeDecodeError as error:
        raise CannotAsk("malformed", "a text of it is not UTF-8: write the file anew") from error
    except _NO_VALUE:
        pass
    try:
        return given.cast(pa.string()).as_py()
    except _NO_VALUE as error:
        raise CannotAsk("malformed", f"its {name} can't be read: {error}") from error


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date, and so are those of pandas
        return value.isoformat()
    return msgspec.to_builtins(value, enc_hook=str)
