"""Baselines: runs that are remembered under a name, to hold others against.

baselines.save("v1", records)
baselines.saved()                             {"v1": "20261122T101500000Z-localhost-main-3f2a"}
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from nexus_tasks.comparison import comparable
from nexus_tasks.comparison.comparable import KIND, pairs
from nexus_tasks.comparison.naming import check_name
from nexus_tasks.core.errors import RecordError, UsageError
from nexus_tasks.records import store
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.views import runs

BASELINES = "baselines.json"


def saved(root: Path = store.ROOT) -> dict[str, str]:
    """The saved baselines: name -> run id, several with commas between them.

    Raises:
        RecordError: the file can't be read, or is not what :func:`save` writes.
    """
    path = root / BASELINES
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RecordError(
            f"cannot read {path}: {error}", hint="mend it or delete it, and save baselines again"
        ) from error
    if not isinstance(names, dict) or not all(isinstance(value, str) for value in names.values()):
        raise RecordError(f"{path} is not an object of names and run ids", hint="delete it, and save baselines again")
    return names


def save(name: str, records: BenchmarkRecord | Sequence[BenchmarkRecord], root: Path = store.ROOT) -> None:
    """Remember a run, or repeats of one, under a name.

    Raises:
        UsageError: the name would mean something else, or a run is not good enough to be held against.
        RecordError: the file can't be read or written.
    """
    check_name(name, "a baseline")
    records = [records] if isinstance(records, BenchmarkRecord) else records
    for record in records:
        if record.summary is None or not record.summary.ok or not record.summary.valid:
            raise UsageError(
                f"{record.run_id} is no baseline: {runs.verdict(record)[1].lower()}", hint="save a run without failures"
            )
        if not (root / KIND / f"{record.run_id}.jsonl").exists():
            raise UsageError(f"{record.run_id} is not in {root / KIND}", hint="move its record there first")
    for _, of_target in pairs(records, records):
        comparable.check(of_target, [])
    names = saved(root) | {name: ",".join(record.run_id for record in records)}
    path = root / BASELINES
    partial = path.with_name(f".{BASELINES}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(names, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise RecordError(f"cannot write {path}: {error.strerror}", hint="make the folder writable") from error
