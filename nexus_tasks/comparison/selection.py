"""Selection: the records of the runs that a name means.

selection.find("v1")                          the runs of a baseline, a tag, a run id, a path; or last
selection.both(["last-good", "last"], root)    the runs of A and B
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nexus_tasks.comparison import baselines, comparable
from nexus_tasks.comparison.comparable import KIND, pairs
from nexus_tasks.comparison.naming import LAST, LAST_GOOD
from nexus_tasks.core.errors import RecordError, UsageError
from nexus_tasks.core.text import plural
from nexus_tasks.hostlib.terminal_text import plain
from nexus_tasks.records import store
from nexus_tasks.records.store import BenchmarkRecord


def find(
    text: str, root: Path = store.ROOT, *, other: Sequence[BenchmarkRecord] | None = None
) -> list[BenchmarkRecord]:
    """The runs that a name means.

    Args:
        text: ``last``, ``last-good``, a baseline, a tag, a run id or its beginning, a path, or several of these with
            commas between them. A tag means all runs that have it. Of those that ``last`` and tags mean, records that
            can't be read are left out with a warning.
        root: the results folder.
        other: the other side, for ``last-good``: the newest good run of the same target and workload before it.

    Raises:
        UsageError: there is no such run, or several begin like that.
        RecordError: a record that was named can't be read, or none of those that were meant.
    """
    by_run_id: dict[str, BenchmarkRecord] = {}
    for name in filter(None, (part.strip() for part in text.split(","))):
        for record in _find_one(name, root, other):
            by_run_id[record.run_id] = record
    if not by_run_id:
        raise UsageError("a run needs a name; this one is empty", hint="name a run, a tag or a baseline")
    return list(by_run_id.values())


def _find_one(name: str, root: Path, other: Sequence[BenchmarkRecord] | None) -> list[BenchmarkRecord]:
    if name.endswith(".jsonl"):
        return [store.load(Path(name))]
    paths = store.paths(KIND, root)
    if name == LAST:
        return [_first(_readable(reversed(paths)), paths)]
    if name == LAST_GOOD:
        return [_last_good(paths, other)]
    saved = baselines.saved(root)
    if name in saved:
        wanted = saved[name].split(",")
        gone = [run_id for run_id in wanted if not (root / KIND / f"{run_id}.jsonl").exists()]
        if gone:
            raise UsageError(
                f"baseline {name!r} is run {', '.join(gone)}, which is not in {root / KIND}",
                hint=f"bring it back, or save another one: --save-baseline {name} RUN",
            )
        return [store.load(root / KIND / f"{run_id}.jsonl") for run_id in wanted]
    headers = {path: _header(path) for path in paths}
    if tagged := [path for path, header in headers.items() if header and header.get("tag") == name]:
        nameless = [path for path, header in headers.items() if header is None]  # it may have been one of them
        return list(_readable([*tagged, *nameless])) or [_first([], tagged)]
    begun = [path for path in paths if path.stem.startswith(name)]
    exact = [path for path in begun if path.stem == name]
    if len(exact or begun) == 1:
        return [store.load((exact or begun)[0])]
    if begun:
        raise UsageError(
            f"{len(begun)} runs begin with {name!r}: {', '.join(path.stem for path in begun[-3:])}",
            hint="give more of the run id",
        )
    latest = ", ".join(path.stem for path in reversed(paths[-3:]))
    raise UsageError(
        f"no run, tag or baseline {name!r} in {root / KIND}",
        hint=f"the latest runs are {latest}; last and last-good work too",
    )


def _last_good(paths: Sequence[Path], other: Sequence[BenchmarkRecord] | None) -> BenchmarkRecord:
    """The newest good run of the other side's target before its first, that measured alike."""
    if not other:
        raise UsageError(
            "last-good needs another run, which it is looked for before",
            hint="name one run: nox -s compare -- last-good last",
        )
    against = min(other, key=lambda record: record.started_at)
    of_target = (
        path for path in reversed(paths) if (_header(path) or {}).get("target") == against.header.target
    )  # fmt: skip
    for record in _readable(of_target):
        summary = record.summary
        if (
            record.started_at < against.started_at
            and summary is not None
            and summary.ok
            and summary.valid
            and comparable.measured_alike(record, against)
        ):
            return record
    raise UsageError(
        f"no good run of {against.header.target} with this workload and model before {against.run_id}",
        hint="measure one, or name another run",
    )


def _readable(paths: Iterable[Path]) -> Iterator[BenchmarkRecord]:
    """The records that can be read, of files that nobody named; the others are named as a warning."""
    return store.readable(
        paths, lambda error: sys.stderr.write(plain(f"warning: left out: {error.message} ({error.hint})\n"))
    )


def _first(records: Iterable[BenchmarkRecord], paths: Sequence[Path]) -> BenchmarkRecord:
    first = next(iter(records), None)
    if first is None:
        raise RecordError(
            f"none of {plural(len(paths), 'record')} in {paths[0].parent} can be read",
            hint="the warnings above say why",
        )
    return first


def _header(path: Path) -> dict[str, Any] | None:
    """The first row of a record, without reading the others; None where it can't be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            row = json.loads(stream.readline())
    except (OSError, ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and row.get("type") == "header" else None


def both(names: Sequence[str], root: Path) -> tuple[list[BenchmarkRecord], list[BenchmarkRecord]]:
    """The runs of A and B. ``last-good`` depends on the other side, so that is found first."""
    if names[0] == LAST_GOOD:
        b = find(names[1], root)
        return beside(names[0], root, b), b
    a = find(names[0], root)
    return a, beside(names[1], root, a)


def beside(name: str, root: Path, other: Sequence[BenchmarkRecord]) -> list[BenchmarkRecord]:
    """The runs of one side. ``last-good`` is one for each target of the other side."""
    of_targets = [side for side, _ in pairs(other, other)] if name == LAST_GOOD else [other]
    return [record for side in of_targets for record in find(name, root, other=side)]
