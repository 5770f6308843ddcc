"""Files of exports, and standard output: what came of each item, in the order of the input.

    files.write(folder, "csv", Path("answers.csv"))       # [Path("answers.csv")]
    files.write(folder, "jsonl", None)                    # to standard output

A few rows are held at a time. A file gets its name when it is complete; what had the name stays until then.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

from nexus_tasks.batches import changes, journal
from nexus_tasks.batches.exports import json_rows, openai, rows, tables
from nexus_tasks.batches.exports.rows import ExportRow
from nexus_tasks.batches.inputs import Input
from nexus_tasks.batches.job import Folder
from nexus_tasks.batches.state import State
from nexus_tasks.core.errors import UsageError

ERRORS_ENDING = ".errors.jsonl"
FORMATS = ("csv", "json", "jsonl", "parquet", "openai")


class Sink(Protocol):
    """A file that takes rows."""

    def write(self, row: ExportRow) -> None: ...
    def close(self) -> None: ...


_SINKS: Mapping[str, Callable[[BinaryIO, Input], Sink]] = {
    "csv": tables.CsvSink,
    "json": json_rows.JsonSink,
    "jsonl": json_rows.JsonlSink,
    "parquet": tables.ParquetSink,
}


def write(folder: Folder, kind: str, out: Path | None) -> list[Path]:
    """Write an export, also beside a process that works on the job: what has no result yet is an error ``pending``.

    Args:
        kind: one of FORMATS. ``openai`` has errors in a file of their own, ``ERRORS_ENDING`` behind the other's stem.
        out: the file; None for standard output.

    Returns:
        The files that were written.

    Raises:
        UsageError: the input is no longer that of the job, Parquet would go to a terminal, or ``out`` is the job's own.
        BatchError: the job's files are damaged.
        OSError: the file can't be written.
    """
    job = folder.load()
    rows.check_input(folder, job)
    for path in _paths(kind, out):
        _check_free(path, folder, job.input)
    items = job.index.items
    state = journal.read(folder.journal, items, folder.keys(items))
    changes.check_journal(folder.journal, state)
    if kind == "parquet" and out is None and sys.stdout.isatty():
        raise UsageError("Parquet is nothing for a terminal", hint="name a file with --out, or pipe it on")
    with contextlib.ExitStack() as stack:
        if kind == "openai":
            written = _write_openai(folder, job.input, state, out, stack)
        else:
            sink = _SINKS[kind](stack.enter_context(_opened(out)), job.input)
            _pour(folder, job.input, state, sink)
            written = [out] if out else []
    return written


def _write_openai(
    folder: Folder, given: Input, state: State, out: Path | None, stack: contextlib.ExitStack
) -> list[Path]:
    """Answers to one file and errors to another, or both to one stream; without errors there is no such file."""
    stream = stack.enter_context(_opened(out))
    if out is None or _is_device(out):
        _pour(folder, given, state, openai.Sink(stream, stream, folder.name))
        return [out] if out else []
    _, errors = _paths("openai", out)
    with _opened(errors, keep_empty=False) as failed:
        _pour(folder, given, state, openai.Sink(stream, failed, folder.name))
    return [out, errors] if errors.exists() else [out]


def _paths(kind: str, out: Path | None) -> list[Path]:
    """The files that an export may write."""
    if out is None:
        return []
    is_apart = kind == "openai" and not _is_device(out)
    return [out, out.with_name(out.stem + ERRORS_ENDING)] if is_apart else [out]


def _check_free(path: Path, folder: Folder, given: Input) -> None:
    """Refuse to write over what this job or another is made of."""
    place = path.resolve()
    around = Folder(place.parent)
    if place == given.source.file.resolve() or around.declaration.exists():
        owner = around if around.declaration.exists() else folder
        raise UsageError(f"{path} belongs to the job {owner.name}", hint="name another file with --out")
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint="name a file in it with --out")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}, where {path.name} would go, is no folder", hint="make it, or name another")


def _is_device(path: Path) -> bool:
    """True for what is there and no file that could be replaced: a terminal, a pipe, ``/dev/stdout``."""
    return path.exists() and not path.is_file()


def _pour(folder: Folder, given: Input, state: State, sink: Sink) -> None:
    with contextlib.ExitStack() as stack:
        results = stack.enter_context(journal.Results(folder.journal)) if folder.journal.exists() else None
        for row in rows.rows(given, state, results):
            sink.write(row)
    sink.close()


@contextlib.contextmanager
def _opened(path: Path | None, *, keep_empty: bool = True) -> Iterator[BinaryIO]:
    """A stream to standard output, or to a file that gets its name at the end of the block.

    Args:
        keep_empty: whether an empty file is one; else it is removed, as a former one of its name.
    """
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if _is_device(path):
        with path.open("wb") as stream:
            yield stream
        return
    path = path.resolve()  # a link stays one
    try:
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    except FileNotFoundError as error:  # below /proc, for one
        raise UsageError(f"{path} can't be made: {error.strerror}", hint="name another folder") from error
    try:
        with os.fdopen(handle, "wb", buffering=1 << 20) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            empty = stream.tell() == 0
        if empty and not keep_empty:
            path.unlink(missing_ok=True)
            return
        Path(draft).chmod(0o666 & ~_umask())
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
