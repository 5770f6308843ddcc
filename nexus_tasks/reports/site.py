"""Site of reports: which pages there are, of which records, and their index.

    site.update()                                    every page that is not up to date, and the index
    site.render_run(Path("results/benchmark/….jsonl"))
    site.compare("tuning", ["before", "after"])

A record ``results/<kind>/<run id>.jsonl`` becomes ``reports/<kind>/<run id>.html`` with the executed notebook
beside it, of batches the last record of each job, which tells all of it. All deployment records together become
``reports/fleet/fleet.html`` and ``reports/builds/builds.html``, all plans of memory
``reports/capacity/capacity.html`` (with what deployments measured), and those of a target with more than one run
``reports/history/<target>.html``. ``reports/index.html`` lists the pages.
Everything in a report comes from records, so ``reports/`` may be deleted at any time. A run's page shows history up to
that run only, so a new record never changes it. A page of chosen records carries their names, so it is rendered again
like the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nexus_tasks.comparison import comparable, selection
from nexus_tasks.comparison.naming import LAST_GOOD
from nexus_tasks.core.errors import RecordError, UsageError
from nexus_tasks.core.provenance import ROOT
from nexus_tasks.core.text import minute, moment, plural
from nexus_tasks.records import store
from nexus_tasks.records.store import BatchRecord, BenchmarkRecord, UsageRecord
from nexus_tasks.reports import index, rendering
from nexus_tasks.reports.rendering import Options, Page
from nexus_tasks.views import batch_runs, runs

NOTEBOOKS = ROOT / "notebooks"
REPORTS = Path("reports")

DEPLOYMENT, BATCH, PLAN, USAGE = "deployment", "batch", "plan", "usage"
TOGETHER = ("fleet", "builds")  # the pages that show all records of deployments
CAPACITY = "capacity"  # the page of all plans of memory
HISTORY = "history"
LATEST_SHOWN = 5


@dataclass(frozen=True)
class Folders:
    """Folders of the records that are read, of the pages that are made, and of the notebooks that make them."""

    results: Path = store.ROOT
    reports: Path = REPORTS
    notebooks: Path = NOTEBOOKS


DEFAULT_FOLDERS = Folders()
DEFAULT_OPTIONS = Options()


def update(
    kinds: Sequence[str] = store.KINDS,
    *,
    run: str | None = None,
    folders: Folders = DEFAULT_FOLDERS,
    options: Options = DEFAULT_OPTIONS,
) -> tuple[Path, int]:
    """Render the pages that are missing or not up to date, several at a time, and write the index.

    Args:
        kinds: kinds of records.
        run: only the record with this run id.

    Returns:
        The path of the index, and how many records could not be read or rendered.

    Raises:
        UsageError: there is no such run or notebook parameter.
        RecordError: there are no records, or they cannot be listed.
        ReportError: the reports folder cannot be written.
    """
    paths_of = _record_paths(kinds, run, folders.results)
    rendering.make_writable(folders.reports)
    unread: list[RecordError] = []
    deployments = sum(1 for _ in store.readable(paths_of.get(DEPLOYMENT, ()), unread.append, "deployment"))
    found = store.readable(paths_of.get(comparable.KIND, ()), unread.append)
    benchmarks = [_without_rows(record) for record in found]
    batches = batch_runs.newest(store.readable(paths_of.get(BATCH, ()), unread.append, "batch"))
    plans = sum(1 for _ in store.readable(paths_of.get(PLAN, ()), unread.append, "plan"))
    used = list(store.readable(paths_of.get(USAGE, ()), unread.append, "usage"))
    for error in unread:
        options.warn(_skipped(error))
    unreadable = len(unread)
    pages = [*(_of_run(record, folders) for record in benchmarks), *(_of_run(record, folders) for record in batches)]
    pages += [_of_run(record, folders) for record in used]
    if run is None:
        pages += _of_targets(benchmarks, folders)
        pages += _compared_before(benchmarks, folders)
    if deployments:
        pages += [_of_all(name, paths_of[DEPLOYMENT], folders) for name in TOGETHER]
    if plans:
        measured = store.paths(DEPLOYMENT, folders.results, required=False)
        pages.append(_of_all(CAPACITY, [*paths_of[PLAN], *measured], folders))
    rendered, failed = rendering.bring_up_to_date(pages, options)
    options.say(_tally(len(pages) + unreadable, rendered, unreadable + failed))
    listed = benchmarks if run is None and comparable.KIND in paths_of else None
    return index.write(folders.results, folders.reports, listed), unreadable + failed


def render_run(record_path: Path, folders: Folders = DEFAULT_FOLDERS) -> Path:
    """Render one record, up to date or not, and return the path of the page. The executed notebook lies beside it.

    Raises:
        RecordError: the record is damaged.
        ReportError: a cell failed (an earlier page is left as it was), or the folder cannot be written.
    """
    return rendering.render(_of_run(store.load(record_path), folders))


def compare(
    kind: str, names: Sequence[str], *, folders: Folders = DEFAULT_FOLDERS, options: Options = DEFAULT_OPTIONS
) -> tuple[Path, int]:
    """Render one page of records that somebody chose, unless it is up to date, and write the index.

    Args:
        kind: ``compare``, ``tuning`` or ``models``.
        names: runs as :func:`nexus_tasks.comparison.selection.find` knows them, each a side.

    Returns:
        The path of the page, and how many pages could not be rendered (0 or 1).

    Raises:
        UsageError: there is no such run, too few or too many were named, or they can't be compared.
        RecordError: a record is damaged.
        ReportError: the reports folder cannot be written.
    """
    return _one(_of_sides(kind, _sides(kind, names, folders.results), folders), folders, options)


def history(target: str, *, folders: Folders = DEFAULT_FOLDERS, options: Options = DEFAULT_OPTIONS) -> tuple[Path, int]:
    """Render the history of one target, unless it is up to date, and write the index; returns as :func:`compare`.

    Raises:
        UsageError: there is no run of such a target.
        RecordError: there are no records, or they cannot be listed.
        ReportError: the reports folder cannot be written.
    """
    found = store.paths(comparable.KIND, folders.results)
    by_target = _by_target(store.readable(found, lambda error: options.warn(_skipped(error))))
    if target not in by_target:
        raise UsageError(
            f"no run of target {target!r} in {folders.results}",
            hint=f"there is {', '.join(sorted(by_target)) or 'none that can be read'}",
        )
    return _one(_of_target(target, by_target[target], folders), folders, options)


def write_index(folders: Folders = DEFAULT_FOLDERS) -> Path:
    """Write ``<reports>/index.html``, the list of all pages; return its path.

    Raises:
        ReportError: the folder cannot be written.
    """
    rendering.make_writable(folders.reports)
    return index.write(folders.results, folders.reports)


def _skipped(error: RecordError) -> str:
    return f"{error.message}: skipped ({error.hint})"


def _one(page: Page, folders: Folders, options: Options) -> tuple[Path, int]:
    rendering.make_writable(folders.reports)
    _, failed = rendering.bring_up_to_date([page], options)
    index.write(folders.results, folders.reports)
    return page.path, failed


def _record_paths(kinds: Sequence[str], run: str | None, results_dir: Path) -> dict[str, list[Path]]:
    """The records to show, by kind: all, or that of one run. Kinds without records are left out, unless all are."""
    paths_of = {kind: store.paths(kind, results_dir, required=False) for kind in kinds}
    if not any(paths_of.values()):
        store.paths(kinds[0], results_dir)  # says so
    if run is None:
        return {kind: paths for kind, paths in paths_of.items() if paths}
    single = [(kind, path) for kind, paths in paths_of.items() if kind not in (DEPLOYMENT, PLAN) for path in paths]
    chosen = {kind: [path] for kind, path in single if path.stem == run}
    if not chosen:
        latest = sorted((path.stem for _, path in single), reverse=True)[:LATEST_SHOWN]
        hint = f"the latest are {', '.join(latest)}"
        for kind in (DEPLOYMENT, PLAN):
            if any(path.stem == run for path in paths_of.get(kind, ())):
                hint = f"{kind}s are reported on together: nox -s report -- {kind}"
        raise UsageError(f"no run {run!r} in {results_dir}", hint=hint)
    return chosen


def _sides(kind: str, names: Sequence[str], results_dir: Path) -> list[list[BenchmarkRecord]]:
    """The records of a page, by sides. A tag or a baseline can stand for several: of models each is a side."""
    last_good = [place for place, name in enumerate(names) if name == LAST_GOOD]
    records_of = {
        place: selection.find(name, results_dir) for place, name in enumerate(names) if place not in last_good
    }
    others = [record for records in records_of.values() for record in records]
    records_of |= {place: selection.find(names[place], results_dir, other=others) for place in last_good}
    sides = [records_of[place] for place in range(len(names))]
    if kind == "models":
        sides = [[record] for side in sides for record in side]
    if len(sides) < 2 or (kind == "tuning" and len(sides) > 2):
        wanted = "two runs, before and after" if kind == "tuning" else "two runs or more"
        raise UsageError(f"{kind} needs {wanted}, not {len(sides)}", hint=f"nox -s report -- {kind} RUN RUN")
    for side in sides[1:] if kind != "models" else []:
        comparable.check(sides[0], side)
    return sides


def _without_rows(record: BenchmarkRecord) -> BenchmarkRecord:
    """A record without what only its own page needs: all records together may be larger than memory."""
    return record if record.summary is None else replace(record, requests=[], samples=[])


def _by_target(records: Iterable[BenchmarkRecord]) -> dict[str, list[Path]]:
    paths_of: dict[str, list[Path]] = {}
    for record in records:
        paths_of.setdefault(str(record.header.target), []).append(record.path)
    return paths_of


def _of_run(record: BenchmarkRecord | BatchRecord | UsageRecord, folders: Folders) -> Page:
    kind = record.header.kind
    name = "sweep" if isinstance(record, BenchmarkRecord) and runs.swept(record) else kind
    return Page(
        path=folders.reports / kind / f"{record.path.stem}.html",
        source=folders.notebooks / f"{name}.ipynb",
        records=(record.path,),
        title=f"{record.header.target}, {moment(record.started_at)}",
        set_by_us={"record_path": str(record.path.resolve()), "results_dir": str(folders.results.resolve())},
    )


def _of_all(name: str, paths: Sequence[Path], folders: Folders) -> Page:
    return Page(
        path=folders.reports / name / f"{name}.html",
        source=folders.notebooks / f"{name}.ipynb",
        records=tuple(paths),
        title=name.capitalize(),
        set_by_us={"results_dir": str(folders.results.resolve())},
    )


def _of_target(target: str, paths: Sequence[Path], folders: Folders) -> Page:
    return Page(
        path=index.history_page(target, folders.reports),
        source=folders.notebooks / f"{HISTORY}.ipynb",
        records=tuple(paths),
        title=f"{target} over time",
        set_by_us={"record_paths": [str(path.resolve()) for path in paths]},
    )


def _of_targets(records: Sequence[BenchmarkRecord], folders: Folders) -> list[Page]:
    """The histories of the targets that have one: more than one run."""
    return [_of_target(target, paths, folders) for target, paths in _by_target(records).items() if len(paths) > 1]


def _of_sides(kind: str, sides: Sequence[Sequence[BenchmarkRecord]], folders: Folders) -> Page:
    stems = [[record.path.stem for record in side] for side in sides]
    flat = [stem for side in stems for stem in side]
    name = "--".join(flat)
    if len(flat) > 2:
        digest = hashlib.sha256(json.dumps(stems).encode()).hexdigest()[:6]
        name = f"{max(flat)}-and-{len(flat) - 1}-more-{digest}"
    of = [f"{side[0].header.tag or side[0].header.target}, {minute(side[0].started_at)}" for side in sides]
    return Page(
        path=folders.reports / kind / f"{name}.html",
        source=folders.notebooks / f"{kind}.ipynb",
        records=tuple(record.path for side in sides for record in side),
        title=f"{index.CHOSEN[kind]}: {' and '.join(of)} UTC",
        set_by_us={"sides": [[str(record.path.resolve()) for record in side] for side in sides]},
        sides=stems,
    )


def _compared_before(records: Sequence[BenchmarkRecord], folders: Folders) -> list[Page]:
    """The pages of chosen records that there are, as far as their records are still there."""
    known = {record.path.stem: record for record in records}
    pages = []
    for kind, path in [(name, path) for name in index.CHOSEN for path in (folders.reports / name).glob("*.html")]:
        stems = json.loads(index.meta(path, "llama-nexus-sides") or "[]")
        if stems and all(stem in known for side in stems for stem in side):
            pages.append(_of_sides(kind, [[known[stem] for stem in side] for side in stems], folders))
    return pages


def _tally(wanted: int, rendered: int, failed: int) -> str:
    parts = [f"{rendered} rendered", f"{wanted - rendered - failed} up to date already"]
    return f"{plural(wanted, 'report')}: {', '.join(parts + ([f'{failed} failed'] if failed else []))}"
