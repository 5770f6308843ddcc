"""Reader of one record's file: its header and rows, typed, as if they had been written today.

    header, rows, summary = reading.read(Path("results/benchmark/....jsonl"), "benchmark")

Use :func:`nexus_tasks.records.store.load`, which makes a record of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from nexus_tasks.core.errors import RecordError
from nexus_tasks.records import schema
from nexus_tasks.records.batch_rows import BatchRow, BatchSummary
from nexus_tasks.records.benchmark_rows import BenchmarkSummary, RequestRow, SampleRow, StageRow
from nexus_tasks.records.deployment_rows import DeploymentSummary, HostRow, ReleaseRow
from nexus_tasks.records.plan_rows import CurveRow, MachineRow, ModelRow, PlanRow, PlanSummary, ServerRow
from nexus_tasks.records.usage_rows import UsageRow, UsageSummary

Kind = Literal["benchmark", "deployment", "batch", "plan", "usage"]
Row = dict[str, Any]
"""A row as JSON has it."""

_MOVE_IT = "move the file out of the results folder; a record is never edited by hand"
_DECODERS: dict[Kind, msgspec.json.Decoder[Any]] = {
    "benchmark": msgspec.json.Decoder(RequestRow | SampleRow | StageRow | BenchmarkSummary),
    "deployment": msgspec.json.Decoder(HostRow | ReleaseRow | DeploymentSummary),
    "batch": msgspec.json.Decoder(BatchRow | BatchSummary),
    "plan": msgspec.json.Decoder(ModelRow | CurveRow | PlanRow | MachineRow | ServerRow | PlanSummary),
    "usage": msgspec.json.Decoder(UsageRow | UsageSummary),
}
_SUMMARIES = (BenchmarkSummary, DeploymentSummary, BatchSummary, PlanSummary, UsageSummary)


def read(path: Path, kind: Kind) -> tuple[Any, list[Any], Any]:
    """The header of a record, the rows after it, and the summary; None where there is no summary.

    Raises:
        RecordError: the file cannot be read, is of another kind, a line is not a row of that kind, the first row is
            not a header, or the schema is unknown. The message names the file and the line.
    """
    lines = _lines(path)
    if not lines:
        raise RecordError(f"{path} is empty", hint="delete it: the run that made it stopped before it began")
    plain = _header(path, lines[0], kind)
    header, rows = _typed(kind, plain, lines) or _upgraded(path, kind, plain, lines)
    for number, row in enumerate(rows[:-1], start=3):
        if isinstance(row, _SUMMARIES):
            raise _damaged(path, number, "it follows the summary, which is the last row of a record")
    summary = rows.pop() if rows and isinstance(rows[-1], _SUMMARIES) else None
    return header, rows, summary


def _lines(path: Path) -> list[bytes]:
    """The whole lines of a record. What follows the last line feed was cut off while it was written."""
    try:
        # Only a line feed ends a row: str.splitlines would also split at line separators inside of strings.
        *lines, rest = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}", hint="check the path and its permissions") from error
    if rest and not lines:
        raise _damaged(path, 1, "it is cut off")
    return lines


def _typed(kind: Kind, header: Row, lines: Sequence[bytes]) -> tuple[Any, list[Any]] | None:
    """Header and rows of a record of the newest schema; None where there is a line that is not of it."""
    if header["schema"] != schema.NEWEST[kind]:
        return None
    decode = _DECODERS[kind].decode
    try:
        return schema.row(kind, header), [decode(line) for line in lines[1:]]
    except (ValueError, RecursionError):  # the latter of lists in lists in lists
        return None


def _upgraded(path: Path, kind: Kind, header: Row, lines: Sequence[bytes]) -> tuple[Any, list[Any]]:
    """Header and rows of an older record, row by row. Raises RecordError at a line that is none of them."""
    rows: list[Row] = []
    for number, line in enumerate(lines[1:], start=2):
        row = _json(path, number, line)
        match row:
            case {"type": str(name)} if name != "header" and name in schema.ROWS[kind]:
                rows.append(row)
            case _:
                raise _damaged(path, number, "it is not a row of a run record")
    try:
        header, rows = schema.upgrade(header, rows)
    except (AttributeError, KeyError, TypeError) as error:
        raise RecordError(
            f"{path} can't be read as its schema {header['schema']}: {type(error).__name__} {error}", hint=_MOVE_IT
        ) from error
    typed = []
    for number, row in enumerate([header, *rows], start=1):
        try:
            typed.append(schema.row(kind, row))
        except ValueError as error:
            raise _damaged(path, number, f"it is no {row['type']} of a {kind}: {error}") from error
    return typed[0], typed[1:]


def _json(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line.decode(), parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, number, "it is not JSON") from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # Python's reader takes what is no JSON, and what draws and exports does not
        raise ValueError(f"{text} is no number")
    return value


def _header(path: Path, line: bytes, kind: Kind) -> Row:
    """The header of a record of a kind, as it is in the file."""
    header = _json(path, 1, line)
    if not isinstance(header, dict) or header.get("type") != "header":
        raise _damaged(path, 1, "it is not a row of a run record")
    _check_header(path, header)
    if header["kind"] != kind:
        raise RecordError(
            f"{path} must be the record of a {kind}, not of a {header['kind']}", hint="name another record"
        )
    return header


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
        zone = datetime.fromisoformat(header["started_at"]).tzinfo
    except (TypeError, ValueError) as error:
        raise _damaged(path, 1, "started_at is not a date and time") from error
    if zone is None:  # it can't be ordered among the others
        raise _damaged(path, 1, "started_at must have its offset from UTC")


def _damaged(path: Path, number: int, why: str) -> RecordError:
    return RecordError(
        f"{path}, line {number}: {why}",
        hint=_MOVE_IT,
    )
