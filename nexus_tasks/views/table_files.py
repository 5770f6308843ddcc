"""Files of tables that records are written to: Parquet, CSV or JSON, one a table.

table_files.write(records, "parquet", Path("exports"))      [Path("exports/runs.parquet"), ...]
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from pyarrow import csv, parquet

from nexus_tasks.core.errors import ReportError
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.views import tables
from nexus_tasks.views.tables import Row

FORMATS = ("parquet", "csv", "json")
CHUNK = 50_000  # rows that are held before they are written


class Sink(Protocol):
    """A file that takes the rows of a table."""

    def write_table(self, table: pa.Table) -> None: ...
    def close(self) -> None: ...


def write(records: Iterable[BenchmarkRecord], kind: str, folder: Path) -> list[Path]:
    """Write the tables of some records, one file a table, and return their paths.

    Args:
        records: read one at a time.
        kind: one of FORMATS.
        folder: is made; files of an earlier export are replaced once all is written.

    Raises:
        ReportError: the folder cannot be written.
    """
    paths = {name: folder / f"{name}.{kind}" for name in tables.COLUMNS}
    partial = {name: folder / f".{name}.{kind}.partial" for name in tables.COLUMNS}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            sinks = {}
            for name in tables.COLUMNS:
                sinks[name] = _OPEN[kind](partial[name], _schema(name))
                stack.callback(sinks[name].close)
            for record in records:
                for name, rows in tables.rows(record).items():
                    _pour(rows, sinks[name], _schema(name))
        for name, path in paths.items():
            partial[name].replace(path)
    except OSError as error:
        raise ReportError(
            f"cannot write an export to {folder}: {error.strerror or error}",
            hint="make the folder writable, or choose another one with --to",
        ) from error
    finally:  # a damaged record, a full disk, Ctrl-C: nothing half-written stays
        for path in partial.values():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    return list(paths.values())


class _JsonSink:
    """One array of objects, a row a line."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._stream = path.open("w", encoding="utf-8")
        self._between = "[\n"

    def write_table(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            self._stream.write(self._between + json.dumps(row, ensure_ascii=False, allow_nan=False))
            self._between = ",\n"

    def close(self) -> None:
        self._stream.write("[]\n" if self._between == "[\n" else "\n]\n")
        self._stream.close()


_OPEN: Mapping[str, Callable[[Path, pa.Schema], Sink]] = {
    "parquet": parquet.ParquetWriter,
    "csv": csv.CSVWriter,
    "json": _JsonSink,
}


def _schema(name: str) -> pa.Schema:
    return pa.schema(list(tables.COLUMNS[name].items()))


def _pour(rows: Iterator[Row], sink: Sink, schema: pa.Schema) -> None:
    held: list[Row] = []
    for row in rows:
        held.append(row)
        if len(held) == CHUNK:
            sink.write_table(pa.Table.from_pylist(held, schema))
            held = []
    if held:
        sink.write_table(pa.Table.from_pylist(held, schema))
