"""Exports as tables, CSV and Parquet: a row an item, the columns of the input among ours.

    id, line, topic, answer, reasoning, tool_calls, finish_reason, prompt_tokens, ..., error_kind, error_message

A column of the input that has the name of one of ours gets ``input_`` before it. The input is read once more before,
for the names and types of its columns. Lists and objects are JSON; in Parquet, embeddings are lists of numbers.
"""

from __future__ import annotations

import csv
import io
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import parquet

from nexus_tasks.batches import inputs
from nexus_tasks.batches.exports.rows import ExportRow
from nexus_tasks.batches.inputs import Input
from nexus_tasks.batches.items import CannotAsk
from nexus_tasks.core import json_text
from nexus_tasks.core.errors import UsageError

MAX_COLUMNS = 1000
HELD_ROWS, HELD_BYTES = 2000, 16 << 20
FIRST = {"id": pa.string(), "line": pa.int64(), "sample": pa.int64()}
RESULT = {
    "answer": pa.string(), "reasoning": pa.string(), "tool_calls": pa.string(), "embedding": pa.list_(pa.float64()),
    "finish_reason": pa.string(), "prompt_tokens": pa.int64(), "output_tokens": pa.int64(), "cached_tokens": pa.int64(),
    "valid": pa.bool_(), "invalid_reason": pa.string(), "model": pa.string(), "build": pa.string(),
    "error_kind": pa.string(), "error_message": pa.string(),
}  # fmt: skip
_TYPES = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
_INT64 = range(-(2**63), 2**63)


class Columns:
    """Columns of an export: ``types`` by name in their order, and ``metadata``, the names here of the input's columns.

    Raises:
        UsageError: the input has too many different ones for a table, or can't be read.
    """

    def __init__(self, given: Input) -> None:
        found = _of_input(given)
        ours = {name: kind for name, kind in (FIRST | RESULT).items() if _is_needed(name, given)}
        self.metadata: dict[str, str] = {}
        for name in found:
            self.metadata[name] = _free(name, {*ours, *found, *self.metadata.values()} - {name}, taken=name in ours)
        self.types = {
            **{name: kind for name, kind in ours.items() if name in FIRST},
            **{self.metadata[name]: kind for name, kind in found.items()},
            **{name: kind for name, kind in ours.items() if name in RESULT},
        }

    def values(self, row: ExportRow) -> dict[str, Any]:
        """A row by the names of the columns; what it lacks is left out."""
        answer, usage, error = row.answer, row.usage, row.error
        found: dict[str, Any] = {"id": row.id, "line": row.line, "sample": row.sample}
        for name, value in row.metadata.items():
            column = self.metadata[name]
            found[column] = _plain(value, self.types[column])
        if answer:
            found |= {
                "answer": answer.text, "reasoning": answer.reasoning,
                "tool_calls": _plain(answer.tool_calls, pa.string()), "embedding": answer.embedding,
                "finish_reason": answer.finish_reason, "prompt_tokens": usage.prompt_tokens,
                "output_tokens": usage.output_tokens, "cached_tokens": usage.cached_tokens, "valid": row.valid,
                "invalid_reason": row.invalid_reason, "model": row.model, "build": row.build,
            }  # fmt: skip
        if error:
            found |= {"error_kind": error.kind, "error_message": error.message}
        return found


class CsvSink:
    """CSV with the names of columns in its first line; what is missing is empty."""

    def __init__(self, stream: BinaryIO, given: Input) -> None:
        self._columns = Columns(given)
        self._text = io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline="", write_through=False)
        self._csv = csv.DictWriter(self._text, list(self._columns.types), extrasaction="ignore", lineterminator="\n")
        self._csv.writeheader()

    def write(self, row: ExportRow) -> None:
        values = self._columns.values(row)
        if values.get("embedding"):
            values["embedding"] = _json(values["embedding"])
        self._csv.writerow({name: _csv_text(value) for name, value in values.items()})

    def close(self) -> None:
        self._text.detach()  # flushes; the stream stays open


class ParquetSink:
    """Parquet; some rows are held and written together."""

    def __init__(self, stream: BinaryIO, given: Input) -> None:
        self._columns = Columns(given)
        self._schema = pa.schema(list(self._columns.types.items()))
        self._writer = parquet.ParquetWriter(pa.PythonFile(_Counted(stream), mode="w"), self._schema)
        self._held: list[dict[str, Any]] = []
        self._bytes = 0

    def write(self, row: ExportRow) -> None:
        values = self._columns.values(row)
        self._held.append(values)
        self._bytes += sum(len(value) for value in values.values() if isinstance(value, str | list))
        if len(self._held) >= HELD_ROWS or self._bytes >= HELD_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.Table.from_pylist(self._held, self._schema))
        self._held, self._bytes = [], 0


class _Counted:
    """A stream that knows its place, as pipes don't; closing it leaves the stream open."""

    closed = False

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._place = stream, 0

    def write(self, data: bytes) -> int:
        self._place += len(data)
        return self._stream.write(data)

    def tell(self) -> int:
        return self._place

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True


def _of_input(given: Input) -> dict[str, pa.DataType]:
    """Names and types of the input's columns that are metadata, in the order in which they come up."""
    found: dict[str, type | None] = {}
    for number, raw in enumerate(given.source.rows(), start=1):
        try:
            fields = given.columns.metadata(inputs.row(given, number, raw).fields)
        except CannotAsk:
            continue
        for name, value in fields.items():
            kind = _kind(value)
            before = found.get(name)
            found[name] = kind if before is None else before if kind in (None, before) else _wider(before, kind)
        if len(found) > MAX_COLUMNS:
            raise UsageError(
                f"{given.source.path} has more than {MAX_COLUMNS:,} different columns", hint="export it as jsonl"
            )
    return {name: _TYPES.get(kind or str, pa.string()) for name, kind in found.items()}


def _kind(value: Any) -> type | None:
    """The type of a column that has this value; None where any would do."""
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return int if value in _INT64 else str
    return type(value) if type(value) in _TYPES else str


def _wider(one: type, other: type) -> type:
    return float if {one, other} == {int, float} else str


def _is_needed(name: str, given: Input) -> bool:
    if name == "sample":
        return given.asking.samples > 1
    return name != "embedding" or given.asking.api == "embeddings" or given.source.format == "openai"


def _free(name: str, used: set[str], *, taken: bool) -> str:
    """A name that no other column has."""
    while taken or name in used:
        name, taken = f"input_{name}", False
    return name


def _plain(value: Any, kind: pa.DataType) -> Any:
    """A value of the input as a column of that type has it."""
    if value is None or (not pa.types.is_string(kind)):
        return float(value) if value is not None and pa.types.is_floating(kind) else value
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return json_text.encoded(value).decode()


def _csv_text(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value
