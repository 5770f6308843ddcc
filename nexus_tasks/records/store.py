"""Run records: the only reader and writer of ``results/<kind>/<run id>.jsonl``.

    with store.create(BenchmarkHeader(...)) as record:
        record.append(RequestRow(...))
        record.finish(BenchmarkSummary(...))

    for path in store.paths("benchmark"):
        record = store.load(path)
        record.header.target, record.requests, record.summary

A record is a JSONL file, written row by row and only ever appended to, so that a run cut short leaves what it
measured. Each row has a ``type``:

``header``   first row. ``schema`` (of its kind: schema.NEWEST), ``kind``, ``run_id``, ``started_at`` (UTC, ISO
             8601), then whatever the kind adds (docs/records.md).
``request``  one request, failed ones too.
``stage``    one level of a benchmark's load, when it has ended.
``sample``   telemetry at one moment.
``host``     what a deployment did to one host. A later row of the same host replaces an earlier one.
``release``  the release of llama.cpp that a deployment found or left on one host. The last one of a host counts, too.
``endpoint`` and others of a batch: batch_rows.py; ``model`` and others of a plan: plan_rows.py;
             ``usage``: usage_rows.py.
``summary``  last row: ``finished_at`` and the verdict on the run. A record without one was interrupted.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

import msgspec

from nexus_tasks.core import json_text
from nexus_tasks.core.errors import RecordError
from nexus_tasks.records import batch_rows, plan_rows, reading, schema
from nexus_tasks.records.batch_rows import (
    AnswerRow,
    BatchHeader,
    BatchSummary,
    EndpointRow,
    FailureRow,
    IntervalRow,
    SchemaRow,
    ServerRow,
    SessionRow,
)
from nexus_tasks.records.benchmark_rows import (
    BenchmarkHeader,
    BenchmarkSummary,
    Header,
    Part,
    RequestRow,
    SampleRow,
    StageRow,
)
from nexus_tasks.records.deployment_rows import DeploymentHeader, DeploymentSummary, HostRow, ReleaseRow
from nexus_tasks.records.plan_rows import PlanHeader, PlanSummary
from nexus_tasks.records.reading import Kind
from nexus_tasks.records.usage_rows import UsageHeader, UsageRow, UsageSummary

MADE_BY = {
    "benchmark": "measure something first: nox -s benchmark",
    "deployment": "deploy something first: ansible-playbook deploy.yml -l gpu-hosts",
    "batch": "run a batch first: nox -s batch -- FILE",
    "plan": "plan something first: nox -s plan -- -l gpu-hosts",
    "usage": "add up what was used: nox -s usage",
}
KINDS = tuple(MADE_BY)
ROOT = Path(os.environ.get("NEXUS_RESULTS") or "results")


@dataclass(frozen=True)
class Record:
    """A run of any kind, read back."""

    path: Path
    header: Header

    @property
    def run_id(self) -> str:
        return self.header.run_id

    @property
    def started_at(self) -> datetime:
        return datetime.fromisoformat(self.header.started_at)


@dataclass(frozen=True)
class BenchmarkRecord(Record):
    """A benchmark, read back, as if it had been written today. ``summary`` is None when the run was interrupted."""

    header: BenchmarkHeader
    requests: list[RequestRow] = field(default_factory=list)
    samples: list[SampleRow] = field(default_factory=list)
    stages: list[StageRow] = field(default_factory=list)
    summary: BenchmarkSummary | None = None


@dataclass(frozen=True)
class DeploymentRecord(Record):
    """A deployment, read back. ``summary`` is None when it was interrupted.

    ``hosts`` and ``releases`` have one row a host, its last; ``releases`` is empty in records that are older than it.
    """

    header: DeploymentHeader
    hosts: list[HostRow] = field(default_factory=list)
    releases: list[ReleaseRow] = field(default_factory=list)
    summary: DeploymentSummary | None = None


@dataclass(frozen=True)
class BatchRecord(Record):
    """A batch as far as it had come, read back. ``summary`` is None where the record could not be written whole."""

    header: BatchHeader
    endpoints: list[EndpointRow] = field(default_factory=list)
    intervals: list[IntervalRow] = field(default_factory=list)
    sessions: list[SessionRow] = field(default_factory=list)
    failures: list[FailureRow] = field(default_factory=list)
    servers: list[ServerRow] = field(default_factory=list)
    schemas: list[SchemaRow] = field(default_factory=list)
    requests: list[batch_rows.RequestRow] = field(default_factory=list)
    answers: list[AnswerRow] = field(default_factory=list)
    summary: BatchSummary | None = None


@dataclass(frozen=True)
class PlanRecord(Record):
    """A memory plan, read back."""

    header: PlanHeader
    models: list[plan_rows.ModelRow] = field(default_factory=list)
    curves: list[plan_rows.CurveRow] = field(default_factory=list)
    plans: list[plan_rows.PlanRow] = field(default_factory=list)
    hosts: list[plan_rows.MachineRow] = field(default_factory=list)
    servers: list[plan_rows.ServerRow] = field(default_factory=list)
    summary: PlanSummary | None = None


@dataclass(frozen=True)
class UsageRecord(Record):
    """Usage of some time, read back. ``summary`` is None where the record could not be written whole."""

    header: UsageHeader
    rows: list[UsageRow] = field(default_factory=list)
    summary: UsageSummary | None = None


_PLAN_ROWS: dict[str, type[Any]] = {
    "models": plan_rows.ModelRow, "curves": plan_rows.CurveRow, "plans": plan_rows.PlanRow,
    "hosts": plan_rows.MachineRow, "servers": plan_rows.ServerRow,
}  # fmt: skip
_BATCH_ROWS: dict[str, type[Any]] = {
    "endpoints": EndpointRow, "intervals": IntervalRow, "sessions": SessionRow, "failures": FailureRow,
    "servers": ServerRow, "schemas": SchemaRow, "requests": batch_rows.RequestRow, "answers": AnswerRow,
}  # fmt: skip


class Writer:
    """An open record. Use :func:`create`; leaving the ``with`` block without :meth:`finish` marks nothing."""

    def __init__(self, path: Path, stream: FileIO) -> None:
        self.path = path
        self._stream = stream

    def append(self, row: Part) -> None:
        """Write one row and hand it to the operating system at once. A number that is none is written as unknown.

        Raises:
            RecordError: the disk is full or the file cannot be written any more.
        """
        left = json_text.encoded(row) + b"\n"
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

    def finish(self, summary: BenchmarkSummary | DeploymentSummary | BatchSummary | PlanSummary | UsageSummary) -> None:
        """Write the trailer, with the present moment: the run is complete, whatever its verdict."""
        self.append(msgspec.structs.replace(summary, finished_at=utc_now()))

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
    header: BenchmarkHeader | DeploymentHeader | BatchHeader | PlanHeader | UsageHeader,
    *,
    root: Path = ROOT,
    run_id: str | None = None,
    started_at: str | None = None,
) -> Writer:
    """Start a record in the folder of its kind below ``root``, and write its header.

    Args:
        header: what the kind says about the run; ``schema``, ``kind``, ``run_id`` and ``started_at`` are set here.
            The name of its target goes into the run id.
        run_id: one of :func:`new_run_id`, where another record names this one; None draws it here.
        started_at: when the run began, where that was before now.

    Raises:
        RecordError: the folder cannot be written.
    """
    kind = next(kind for kind, rows in schema.ROWS.items() if isinstance(header, rows["header"]))
    given, path = run_id, root / kind
    stream: FileIO | None = None
    try:
        path.mkdir(parents=True, exist_ok=True)
        while stream is None:
            run_id = given or new_run_id(header.target)
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
    first = {"schema": schema.NEWEST[kind], "kind": kind, "run_id": path.stem, "started_at": started_at or utc_now()}
    try:
        writer.append(msgspec.structs.replace(header, **first))
    except BaseException:  # a value that is none of JSON's, Ctrl-C: a record without a header could never be read
        stream.close()
        path.unlink()
        raise
    return writer


@overload
def load(path: Path, kind: Literal["benchmark"] = "benchmark") -> BenchmarkRecord: ...
@overload
def load(path: Path, kind: Literal["deployment"]) -> DeploymentRecord: ...
@overload
def load(path: Path, kind: Literal["batch"]) -> BatchRecord: ...
@overload
def load(path: Path, kind: Literal["plan"]) -> PlanRecord: ...
@overload
def load(path: Path, kind: Literal["usage"]) -> UsageRecord: ...
def load(
    path: Path, kind: Kind = "benchmark"
) -> BenchmarkRecord | DeploymentRecord | BatchRecord | PlanRecord | UsageRecord:
    """Read one record.

    Raises:
        RecordError: the file cannot be read, is of another kind, a line is not a row of that kind, the first row is
            not a header, or the schema is unknown. The message names the file and the line.
    """
    header, rows, summary = reading.read(path, kind)
    match kind:
        case "benchmark":
            return BenchmarkRecord(
                path, header, summary=summary, requests=_of(RequestRow, rows), samples=_of(SampleRow, rows),
                stages=_of(StageRow, rows),
            )  # fmt: skip
        case "deployment":
            return DeploymentRecord(  # a later row of the same host replaces an earlier one
                path, header, summary=summary, hosts=list({row.host: row for row in _of(HostRow, rows)}.values()),
                releases=list({row.host: row for row in _of(ReleaseRow, rows)}.values()),
            )  # fmt: skip
        case "batch":
            return BatchRecord(
                path, header, summary=summary, **{name: _of(kind, rows) for name, kind in _BATCH_ROWS.items()}
            )
        case "plan":
            return PlanRecord(
                path, header, summary=summary, **{name: _of(kind, rows) for name, kind in _PLAN_ROWS.items()}
            )
        case "usage":
            return UsageRecord(path, header, summary=summary, rows=_of(UsageRow, rows))


_Part = TypeVar("_Part", bound=Part)


def _of(kind: type[_Part], rows: Iterable[Part]) -> list[_Part]:
    return [row for row in rows if isinstance(row, kind)]


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


@overload
def readable(
    found: Iterable[Path], unread: Callable[[RecordError], object], kind: Literal["benchmark"] = "benchmark"
) -> Iterator[BenchmarkRecord]: ...
@overload
def readable(
    found: Iterable[Path], unread: Callable[[RecordError], object], kind: Literal["deployment"]
) -> Iterator[DeploymentRecord]: ...
@overload
def readable(
    found: Iterable[Path], unread: Callable[[RecordError], object], kind: Literal["batch"]
) -> Iterator[BatchRecord]: ...
@overload
def readable(
    found: Iterable[Path], unread: Callable[[RecordError], object], kind: Literal["plan"]
) -> Iterator[PlanRecord]: ...
@overload
def readable(
    found: Iterable[Path], unread: Callable[[RecordError], object], kind: Literal["usage"]
) -> Iterator[UsageRecord]: ...
def readable(
    found: Iterable[Path], unread: Callable[[RecordError], object], kind: Kind = "benchmark"
) -> (
    Iterator[BenchmarkRecord]
    | Iterator[DeploymentRecord]
    | Iterator[BatchRecord]
    | Iterator[PlanRecord]
    | Iterator[UsageRecord]
):
    """The records of some files, but for those that can't be read: one that is damaged never keeps the others back.

    Args:
        found: the files, which are read one by one.
        unread: is told of each that can't be read; the message has its path.
    """
    for path in found:
        try:
            record = load(path, kind)
        except RecordError as error:
            unread(error)
            continue
        yield record


def load_readable_deployments(root: Path = ROOT) -> tuple[list[DeploymentRecord], list[str]]:
    """All records of deployments that can be read, oldest first, and a line for each that can't.

    Raises:
        RecordError: there are none, or the folder cannot be listed.
    """
    unread: list[str] = []
    found = readable(paths("deployment", root), lambda error: unread.append(error.message), "deployment")
    return list(found), unread
