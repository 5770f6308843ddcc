"""Run records: the only reader and writer of ``results/<kind>/<run id>.jsonl``.

    with store.create("benchmark", header) as record:
        record.append({"type": "request", ...})
        record.finish({"ok": True, ...})

    for record in store.load_all("benchmark"):
        record.header["target"], record.requests, record.summary

A record is a JSONL file, written row by row and only ever appended to, so that a run cut short leaves what it
measured. Each row has a ``type``:

``header``   first row. ``schema`` (of its kind: schema.NEWEST), ``kind``, ``run_id``, ``started_at`` (UTC, ISO
             8601), then whatever the kind adds (docs/records.md).
``request``  one request, failed ones too.
``stage``    one level of a benchmark's load, when it has ended.
``sample``   telemetry at one moment.
``host``     what a deployment did to one host. A later row of the same host replaces an earlier one.
``release``  the release of llama.cpp that a deployment found or left on one host. The last one of a host counts, too.
``summary``  last row: ``finished_at`` and the verdict on the run. A record without one was interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nexus_tasks.core.errors import RecordError
from nexus_tasks.records import schema

MADE_BY = {
    "benchmark": "measure something first: nox -s benchmark",
    "deployment": "deploy something first: ansible-playbook deploy.yml -l gpu-hosts",
}
KINDS = tuple(MADE_BY)
ROOT = Path(os.environ.get("NEXUS_RESULTS") or "results")
ROW_TYPES = ("header", "request", "sample", "stage", "host", "release", "summary")

Row = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """One run, read back. ``summary`` is None when the run was interrupted. Rows are as written, or upgraded where
    they were written by an older version.

    ``hosts`` and ``releases`` have one row a host, its last; ``releases`` is empty in records that are older than it.
    """

    path: Path
    header: Row
    requests: list[Row] = field(default_factory=list)
    samples: list[Row] = field(default_factory=list)
    stages: list[Row] = field(default_factory=list)
    summary: Row | None = None
    hosts: list[Row] = field(default_factory=list)
    releases: list[Row] = field(default_factory=list)

    @property
    def run_id(self) -> str:
        return str(self.header["run_id"])

    @property
    def started_at(self) -> datetime:
        return datetime.fromisoformat(self.header["started_at"])


class Writer:
    """An open record. Use :func:`create`; leaving the ``with`` block without :meth:`finish` marks nothing."""

    def __init__(self, path: Path, stream: FileIO) -> None:
        self.path = path
        self._stream = stream

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row and hand it to the operating system at once.

        Raises:
            RecordError: the disk is full or the file cannot be written any more.
        """
        if row.get("type") not in ROW_TYPES:
            raise ValueError(f"a row's type is one of {', '.join(ROW_TYPES)}, not {row.get('type')!r}")
        line = json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
        # Half of a surrogate pair, as a server's JSON may hold, must not cost the row: it becomes "?".
        left = line.encode("utf-8", errors="replace")
        start = self._stream.tell()
        try:
            while left:  # a full disk first shows as a write of fewer bytes
                left = left[self._stream.write(left) :]
        except OSError as error:
            with contextlib.suppress(OSError):  # take half a row back: the record stays readable
                self._stream.seek(start)
                self._stream.truncate()
            raise RecordError(
                f"cannot write on to {self.path}: {error.strerror}",
                hint="the rows before it are kept; make room on the disk and run it again",
            ) from error

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the trailer: the run is complete, whatever its verdict."""
        self.append({"type": "summary", "finished_at": utc_now(), **summary})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def utc_now() -> str:
    """The present moment in UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def new_run_id(target: str) -> str:
    """A run id that sorts by time, and names its target: ``20261122T101530042Z-localhost-main-3f9a``."""
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", target).strip("-")[:60] or "run"
    # %f has six digits; runs follow one another within a second, not within a millisecond.
    return f"{datetime.now(UTC).strftime('%Y%m%dT%H%M%S%f')[:-3]}Z-{slug}-{secrets.token_hex(2)}"


def create(
    kind: str, header: Mapping[str, Any], *, target: str, root: Path = ROOT, run_id: str | None = None
) -> Writer:
    """Start a record in ``root/kind`` and write its header.

    Args:
        kind: one of KINDS.
        header: what the kind says about the run; ``type``, ``schema``, ``kind``, ``run_id`` and
            ``started_at`` are added here.
        target: the name that goes into the run id.
        run_id: one of :func:`new_run_id`, where another record names this one; None draws it here.

    Raises:
        RecordError: the folder cannot be written.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of record {kind!r}")
    given, path = run_id, root / kind
    stream: FileIO | None = None
    try:
        path.mkdir(parents=True, exist_ok=True)
        while stream is None:
            run_id = given or new_run_id(target)
            path = root / kind / f"{run_id}.jsonl"
            try:
                stream = FileIO(path, "x")
            except FileExistsError:  # two runs of one moment drew the same id: draw again
                if given:
                    raise
    except OSError as error:
        raise RecordError(
            f"cannot write a run record to {path}: {error.strerror}",
            hint="make the folder writable, or choose another one with --results or NEXUS_RESULTS",
        ) from error
    writer = Writer(path, stream)
    row = {"schema": schema.NEWEST[kind], "kind": kind, "run_id": run_id, "started_at": utc_now()}
    try:
        writer.append({"type": "header", **row, **header})
    except RecordError:
        stream.close()
        path.unlink()  # a record without a header could never be read
        raise
    return writer


def load(path: Path) -> Record:
    """Read one record.

    Raises:
        RecordError: the file cannot be read, a line is not a JSON object of a known type, the first row is
            not a header, or the schema is unknown. The message names the file and the line.
    """
    header: Row | None = None
    rows: list[Row] = []
    try:
        # Only a line feed ends a row: str.splitlines would also split at line separators inside of strings.
        *lines, rest = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}", hint="check the path and its permissions") from error
    if rest and not lines:
        raise _damaged(path, 1, "it is cut off")
    # What follows the last line feed was cut off while it was written, wherever in a character that fell.
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line.decode())
        except ValueError as error:
            raise _damaged(path, number, "it is not JSON") from error
        if rows and rows[-1]["type"] == "summary":
            raise _damaged(path, number, "it follows the summary, which is the last row of a record")
        match row:
            case {"type": "header"} if number == 1:
                header = row
                _check_header(path, row)
            case {"type": str(name)} if header is not None and name != "header" and name in schema.ROWS[header["kind"]]:
                rows.append(row)
            case _:
                raise _damaged(path, number, "it is not a row of a run record")
    if header is None:
        raise RecordError(f"{path} is empty", hint="delete it: the run that made it stopped before it began")
    try:
        header, rows = schema.upgrade(header, rows)
    except (AttributeError, KeyError, TypeError) as error:
        raise RecordError(
            f"{path} can't be read as its schema {header['schema']}: {type(error).__name__} {error}", hint=_MOVE_IT
        ) from error
    for number, row in enumerate([header, *rows], start=1):
        try:
            schema.check(header["kind"], row)
        except ValueError as error:
            raise _damaged(path, number, f"it is no {row['type']} of a {header['kind']}: {error}") from error
    of_type = {name: [row for row in rows if row["type"] == name] for name in ROW_TYPES}
    return Record(
        path,
        header,
        requests=of_type["request"],
        samples=of_type["sample"],
        stages=of_type["stage"],
        summary=of_type["summary"][0] if of_type["summary"] else None,
        # A later row of the same host replaces an earlier one.
        hosts=list({row["host"]: row for row in of_type["host"]}.values()),
        releases=list({row["host"]: row for row in of_type["release"]}.values()),
    )


def _check_header(path: Path, header: Row) -> None:
    missing = [key for key in ("schema", "kind", "run_id", "started_at") if key not in header]
    if missing:
        raise _damaged(path, 1, f"the header lacks {', '.join(missing)}")
    if header["kind"] not in schema.NEWEST:
        raise _damaged(path, 1, f"there is no kind {header['kind']!r}")
    newest = schema.NEWEST[header["kind"]]
    if header["schema"] not in range(1, newest + 1):
        raise RecordError(
            f"{path} has schema {header['schema']!r}; this version reads up to {newest} of kind {header['kind']}",
            hint="read it with the version of Llama Nexus that wrote it",
        )
    try:
        datetime.fromisoformat(header["started_at"])
    except (TypeError, ValueError) as error:
        raise _damaged(path, 1, "started_at is not a date and time") from error


def paths(kind: str, root: Path = ROOT, *, required: bool = True) -> list[Path]:
    """The records of a kind, oldest first (run ids sort by time).

    Raises:
        RecordError: there are none although they are ``required``, or the folder cannot be listed.
    """
    folder = root / kind
    try:
        of_kind = sorted(entry for entry in folder.iterdir() if entry.suffix == ".jsonl")
    except FileNotFoundError:
        of_kind = []
    except OSError as error:
        raise RecordError(
            f"cannot list {folder}: {error.strerror}", hint="check the folder's owner and permissions"
        ) from error
    if required and not of_kind:
        raise RecordError(f"no {kind} records in {folder}", hint=MADE_BY[kind])
    return of_kind


def load_all(kind: str, root: Path = ROOT) -> Iterator[Record]:
    """Every record of a kind, oldest first. Raises RecordError as :func:`paths` and :func:`load` do."""
    for path in paths(kind, root):
        yield load(path)


_MOVE_IT = "move the file out of the results folder; a record is never edited by hand"


def _damaged(path: Path, number: int, why: str) -> RecordError:
    return RecordError(
        f"{path}, line {number}: {why}",
        hint=_MOVE_IT,
    )


def load_readable(kind: str, root: Path = ROOT) -> tuple[list[Record], list[str]]:
    """All records of a kind that can be read, oldest first, and a line for each that can't.

    Raises:
        RecordError: there are none, or the folder cannot be listed.
    """
    records, unread = [], []
    for path in paths(kind, root):
        try:
            records.append(load(path))
        except RecordError as error:
            unread.append(error.message)
    return records, unread
