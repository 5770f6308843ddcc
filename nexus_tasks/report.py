"""Render run records into HTML reports.

    python -m nexus_tasks.report                       every report that is not up to date
    python -m nexus_tasks.report --run RUN_ID --force  one record, whatever there is
    python -m nexus_tasks.report -p history_runs 5     with another value for a notebook parameter
    python -m nexus_tasks.report compare RUN RUN       a page of chosen records: compare, tuning or models
    python -m nexus_tasks.report history TARGET        the history of one target

A record ``results/<kind>/<run id>.jsonl`` becomes ``reports/<kind>/<run id>.html`` with the executed notebook
beside it; all deployment records together become ``reports/fleet/fleet.html`` and ``reports/builds/builds.html``, and
those of a target with more than one run ``reports/history/<target>.html``. ``reports/index.html`` lists the pages.
Everything in a report comes from records, so ``reports/`` may be deleted at any time. A page carries a fingerprint of
what it was made from (records, notebook, skin, the code that draws, parameters); it is up to date as long as that is
unchanged. A run's page shows history up to that run only, so a new record never changes it. A page of chosen records
carries their names, so it is rendered again like the others.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from nexus_tasks.comparison import comparable, selection
from nexus_tasks.comparison.naming import LAST_GOOD
from nexus_tasks.core.errors import NexusError, RecordError, UsageError, command_line
from nexus_tasks.core.provenance import ROOT
from nexus_tasks.core.text import plural
from nexus_tasks.records import runs, store
from nexus_tasks.records.store import Record
from nexus_tasks.reports import index, markup

NOTEBOOKS = ROOT / "notebooks"
REPORTS = Path("reports")

TOGETHER = {"deployment": ("fleet", "builds")}  # kinds whose records are shown together, and what the pages are called
HISTORY = "history"
RESERVED = frozenset({"record_path", "results_dir", "sides", "record_paths"})
LATEST_SHOWN = 5

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Page:
    """A page to be: its notebook, the records that it shows, and where it goes.

    ``set_by_us`` are the notebook's parameters that say which records, ``given`` those that the user typed; ``sides``
    are the run ids of a page of chosen records, which it carries.
    """

    path: Path
    source: Path
    records: tuple[Path, ...]
    title: str
    set_by_us: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)
    sides: Sequence[Sequence[str]] = ()


def render(
    record_path: Path,
    *,
    results_dir: Path = store.ROOT,
    reports_dir: Path = REPORTS,
    notebooks_dir: Path = NOTEBOOKS,
    parameters: Mapping[str, str] | None = None,
) -> Path:
    """Render one record, and return the path of the page. The executed notebook lies beside it.

    Args:
        record_path: a run record.
        results_dir: where earlier runs of the same target are looked for.
        reports_dir: the page becomes ``<reports_dir>/<kind>/<run id>.html``.
        notebooks_dir: holds ``<kind>.ipynb``, and ``sweep.ipynb`` for those benchmarks.
        parameters: notebook parameters by name, as typed.

    Raises:
        RecordError: the record is damaged.
        UsageError: the notebook has no such parameter.
        ReportError: a cell failed (an earlier page is left as it was), or the folder cannot be written.
    """
    record = store.load(record_path)
    page = _page_of_run(record, results_dir, reports_dir, notebooks_dir)
    return _render(replace(page, given=parameters or {}))


def fingerprint(records: Sequence[Path], source: Path, parameters: Mapping[str, str]) -> str:
    """A hash of everything that a report is made from."""
    digest = hashlib.sha256(_code_digest())
    for path in [*records, source]:
        try:
            state = path.stat()
            digest.update(_file_digest(path, state.st_size, state.st_mtime_ns))
        except OSError:  # a record that nobody can read is told of in the page
            digest.update(b"unreadable")
    digest.update(json.dumps(dict(parameters), sort_keys=True).encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=10_000)
def _file_digest(path: Path, size: int, modified_ns: int) -> bytes:
    """The hash of a file, taken once for all pages that it goes into; the other arguments say that it is the same."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def is_current(page: Path, inputs: str) -> bool:
    """Whether a page exists and was made from these inputs."""
    return index.inputs(page) == inputs


def write_index(results_dir: Path = store.ROOT, reports_dir: Path = REPORTS) -> Path:
    """Write ``<reports_dir>/index.html``, the list of all pages; return its path.

    Raises:
        ReportError: the folder cannot be written.
    """
    _make_writable(reports_dir)
    return index.write(results_dir, reports_dir)


def report(
    kinds: Sequence[str] = store.KINDS,
    *,
    run: str | None = None,
    results_dir: Path = store.ROOT,
    reports_dir: Path = REPORTS,
    notebooks_dir: Path = NOTEBOOKS,
    parameters: Mapping[str, str] | None = None,
    force: bool = False,
    say: Progress = lambda line: None,
    warn: Progress = lambda line: None,
) -> tuple[Path, int]:
    """Render the pages that are missing or not up to date, several at a time, and write the index.

    Args:
        kinds: kinds of records.
        run: only the record with this run id.
        force: render up-to-date ones as well.
        parameters: each goes to the notebooks that have it.
        say: gets progress lines.
        warn: gets a line for each record that could not be rendered; the others are rendered all the same.

    Returns:
        The path of the index, and how many records could not be read or rendered.

    Raises:
        UsageError: there is no such run or notebook parameter.
        RecordError: there are no records, or they cannot be listed.
        ReportError: the reports folder cannot be written.
    """
    found = _found(kinds, run, results_dir)
    _make_writable(reports_dir)
    readable: dict[str, list[Record]] = {kind: [] for kind in found}
    unreadable = 0
    for kind, path in [(kind, path) for kind, paths in found.items() for path in paths]:
        try:
            readable[kind].append(_without_rows(store.load(path)))
        except RecordError as error:
            unreadable += 1
            warn(f"{error.message}: skipped ({error.hint})")
    pages = []
    for kind, records in readable.items():
        if kind in TOGETHER:
            names = TOGETHER[kind] if records else ()
            pages += [_page_of_all(name, found[kind], results_dir, reports_dir, notebooks_dir) for name in names]
            continue
        pages += [_page_of_run(record, results_dir, reports_dir, notebooks_dir) for record in records]
        if run is None:
            pages += _pages_of_targets(records, reports_dir, notebooks_dir)
            pages += _pages_chosen_before(records, reports_dir, notebooks_dir)
    listed = readable.get(comparable.KIND) if run is None else None
    rendered, failed = _bring_up_to_date(pages, parameters or {}, force, say, warn)
    say(_tally(len(pages) + unreadable, rendered, unreadable + failed))
    return index.write(results_dir, reports_dir, listed), unreadable + failed


def chosen(
    kind: str,
    names: Sequence[str],
    *,
    results_dir: Path = store.ROOT,
    reports_dir: Path = REPORTS,
    notebooks_dir: Path = NOTEBOOKS,
    parameters: Mapping[str, str] | None = None,
    force: bool = False,
    say: Progress = lambda line: None,
    warn: Progress = lambda line: None,
) -> tuple[Path, int]:
    """Render one page of chosen records, unless it is up to date, and write the index.

    Args:
        kind: ``compare``, ``tuning``, ``models`` or ``history``.
        names: for ``history`` one target; else runs as :func:`nexus_tasks.comparison.selection.find` knows them,
            of a comparison each a side.

    Returns:
        The path of the page, and how many pages could not be rendered (0 or 1).

    Raises:
        UsageError: there is no such run or target, too few or too many were named, or they can't be compared.
        RecordError: a record is damaged.
        ReportError: the reports folder cannot be written.
    """
    if kind == HISTORY:
        page = _page_of_target(*_named_target(names, results_dir), reports_dir, notebooks_dir)
    else:
        page = _page_of_sides(kind, _sides(kind, names, results_dir), reports_dir, notebooks_dir)
    _make_writable(reports_dir)
    _, failed = _bring_up_to_date([page], parameters or {}, force, say, warn)
    index.write(results_dir, reports_dir)
    return page.path, failed


def _bring_up_to_date(
    pages: Sequence[Page], parameters: Mapping[str, str], force: bool, say: Progress, warn: Progress
) -> tuple[int, int]:
    """Render the pages that are not up to date; how many were rendered, and how many could not be."""
    given = _for_each(list(dict.fromkeys(page.source for page in pages)), parameters)
    pages = [replace(page, given=given[page.source]) for page in pages]
    stale = [page for page in pages if force or not is_current(page.path, _inputs(page))]
    failed = _render_all(stale, say, warn)
    return len(stale) - failed, failed


def _without_rows(record: Record) -> Record:
    """A record without what only its own page needs: all records together may be larger than memory."""
    return record if record.summary is None else replace(record, requests=[], samples=[])


def _sides(kind: str, names: Sequence[str], results_dir: Path) -> list[list[Record]]:
    """The records of a page, by sides. A tag or a baseline can stand for several: of models each is a side."""
    last_good = [place for place, name in enumerate(names) if name == LAST_GOOD]
    found = {
        place: selection.find(name, results_dir) for place, name in enumerate(names) if place not in last_good
    }  # fmt: skip
    others = [record for records in found.values() for record in records]
    found |= {place: selection.find(names[place], results_dir, other=others) for place in last_good}
    sides = [found[place] for place in range(len(names))]
    if kind == "models":
        sides = [[record] for side in sides for record in side]
    if len(sides) < 2 or (kind == "tuning" and len(sides) > 2):
        wanted = "two runs, before and after" if kind == "tuning" else "two runs or more"
        raise UsageError(f"{kind} is of {wanted}, not of {len(sides)}", hint=f"nox -s report -- {kind} RUN RUN")
    for side in sides[1:] if kind != "models" else []:
        comparable.check(sides[0], side)
    return sides


def _named_target(names: Sequence[str], results_dir: Path) -> tuple[str, list[Path]]:
    if len(names) != 1:
        raise UsageError(f"a history is of one target, not of {len(names)}", hint="nox -s report -- history TARGET")
    headers: dict[str, list[Path]] = {}
    for path in store.paths(comparable.KIND, results_dir):
        headers.setdefault(str(store.load(path).header["target"]), []).append(path)
    if names[0] not in headers:
        raise UsageError(
            f"no run of target {names[0]!r} in {results_dir}", hint=f"there is {', '.join(sorted(headers))}"
        )
    return names[0], headers[names[0]]


def _pages_of_targets(records: Sequence[Record], reports_dir: Path, notebooks_dir: Path) -> list[Page]:
    """The histories of the targets that have one: more than one run."""
    by_target: dict[str, list[Path]] = {}
    for record in records:
        by_target.setdefault(str(record.header["target"]), []).append(record.path)
    return [
        _page_of_target(target, paths, reports_dir, notebooks_dir)
        for target, paths in by_target.items()
        if len(paths) > 1
    ]


def _page_of_target(target: str, paths: Sequence[Path], reports_dir: Path, notebooks_dir: Path) -> Page:
    return Page(
        path=index.history_page(target, reports_dir),
        source=notebooks_dir / f"{HISTORY}.ipynb",
        records=tuple(paths),
        title=f"{target} over time",
        set_by_us={"record_paths": [str(path.resolve()) for path in paths]},
    )


def _page_of_sides(kind: str, sides: Sequence[Sequence[Record]], reports_dir: Path, notebooks_dir: Path) -> Page:
    stems = [[record.path.stem for record in side] for side in sides]
    flat = [stem for side in stems for stem in side]
    name = "--".join(flat)
    if len(flat) > 2:
        made = hashlib.sha256(json.dumps(stems).encode()).hexdigest()[:6]
        name = f"{max(flat)}-and-{len(flat) - 1}-more-{made}"
    of = [f"{side[0].header['tag'] or side[0].header['target']}, {side[0].started_at:%Y-%m-%d %H:%M}" for side in sides]
    return Page(
        path=reports_dir / kind / f"{name}.html",
        source=notebooks_dir / f"{kind}.ipynb",
        records=tuple(record.path for side in sides for record in side),
        title=f"{index.CHOSEN[kind]}: {' and '.join(of)} UTC",
        set_by_us={"sides": [[str(record.path.resolve()) for record in side] for side in sides]},
        sides=stems,
    )


def _pages_chosen_before(records: Sequence[Record], reports_dir: Path, notebooks_dir: Path) -> list[Page]:
    """The pages of chosen records that there are, as far as their records are still there."""
    known = {record.path.stem: record for record in records}
    pages = []
    for kind, path in [(name, path) for name in index.CHOSEN for path in (reports_dir / name).glob("*.html")]:
        sides = json.loads(index.meta(path, "llama-nexus-sides") or "[]")
        if sides and all(stem in known for side in sides for stem in side):
            found = [[known[stem] for stem in side] for side in sides]
            pages.append(_page_of_sides(kind, found, reports_dir, notebooks_dir))
    return pages


def _page_of_run(record: Record, results_dir: Path, reports_dir: Path, notebooks_dir: Path) -> Page:
    kind = str(record.header["kind"])
    name = "sweep" if kind == comparable.KIND and runs.swept(record) else kind
    return Page(
        path=reports_dir / kind / f"{record.path.stem}.html",
        source=notebooks_dir / f"{name}.ipynb",
        records=(record.path,),
        title=f"{record.header['target']}, {record.started_at:%Y-%m-%d %H:%M} UTC",
        set_by_us={"record_path": str(record.path.resolve()), "results_dir": str(results_dir.resolve())},
    )


def _page_of_all(name: str, paths: Sequence[Path], results_dir: Path, reports_dir: Path, notebooks_dir: Path) -> Page:
    return Page(
        path=reports_dir / name / f"{name}.html",
        source=notebooks_dir / f"{name}.ipynb",
        records=tuple(paths),
        title=name.capitalize(),
        set_by_us={"results_dir": str(results_dir.resolve())},
    )


def _inputs(page: Page) -> str:
    return fingerprint(page.records, page.source, page.given)


def _render(page: Page) -> Path:
    """Execute the notebook, and write the page where that succeeds."""
    from nexus_tasks.reports import notebook  # papermill and what comes with it: a second, so only when it is needed

    values = notebook.check_parameters(page.source, page.given, RESERVED)
    failed = page.path.with_suffix(".failed.ipynb")
    _make_writable(page.path.parent)
    inputs = _inputs(page)  # before the notebook reads them: a record that comes meanwhile makes the page stale
    try:
        executed = notebook.execute(
            page.source,
            failed,  # its name until every cell has succeeded
            {**page.set_by_us, **values},
            cwd=ROOT,
        )
        html = notebook.export(
            executed,
            template=markup.SKIN / "page.html",
            title=page.title,
            inputs=inputs,
            sides=json.dumps(page.sides) if page.sides else "",
        )
        failed.replace(page.path.with_suffix(".ipynb"))
        index.replace(page.path, html)
    except OSError as error:
        raise index.unwritable(page.path.parent, error) from error
    return page.path


def _render_all(pages: Sequence[Page], say: Progress, warn: Progress) -> int:
    """Render in threads: the work is in the kernels, which are processes. Returns how many failed."""
    if not pages:
        return 0
    workers = min(len(pages), os.cpuplural() or 1)
    say(f"rendering {plural(len(pages), 'report')}{f', {workers} at a time' if workers > 1 else ''}")
    importlib.import_module("nexus_tasks.reports.notebook")  # once here, rather than by every thread at the same time
    began = time.monotonic()
    failed = 0
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(_render, page): page for page in pages}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                place = f"{done}/{len(pages)}, {time.monotonic() - began:.1f} s"
                try:
                    say(f"  {place}: {future.result()}")
                except NexusError as error:
                    failed += 1
                    warn(f"{futures[future].path.stem}: {error.message} ({error.hint})")
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return failed


def _found(kinds: Sequence[str], run: str | None, results_dir: Path) -> dict[str, list[Path]]:
    """The records to show, by kind: all, or that of one run. Kinds without records are left out, unless all are."""
    found = {kind: store.paths(kind, results_dir, required=False) for kind in kinds}
    if not any(found.values()):
        store.paths(kinds[0], results_dir)  # says so
    if run is None:
        return {kind: paths for kind, paths in found.items() if paths}
    single = [(kind, path) for kind, paths in found.items() if kind not in TOGETHER for path in paths]
    chosen = {kind: [path] for kind, path in single if path.stem == run}
    if not chosen:
        latest = [path.stem for _, path in single][-LATEST_SHOWN:][::-1]
        hint = f"the latest are {', '.join(latest)}"
        if any(path.stem == run for kind in found.keys() & TOGETHER for path in found[kind]):
            hint = "deployments are reported on together: nox -s report -- deployment"
        raise UsageError(f"no run {run!r} in {results_dir}", hint=hint)
    return chosen


def _for_each(sources: Sequence[Path], given: Mapping[str, str]) -> dict[Path, dict[str, str]]:
    """The parameters that each notebook has, of those given."""
    if not given:
        return {source: {} for source in sources}
    import papermill

    from nexus_tasks.reports import notebook

    if len(sources) == 1:
        notebook.check_parameters(sources[0], given, RESERVED)
        return {sources[0]: dict(given)}
    known = {source: set(papermill.inspect_notebook(source)) - RESERVED for source in sources}
    for name in given:
        if not any(name in names for names in known.values()):
            has = "; ".join(f"{source.name} has {', '.join(sorted(names))}" for source, names in known.items())
            raise UsageError(f"no notebook has a parameter {name!r}", hint=has)
    chosen = {source: {name: given[name] for name in given if name in names} for source, names in known.items()}
    for source, values in chosen.items():
        notebook.check_parameters(source, values, RESERVED)
    return chosen


@functools.cache
def _code_digest() -> bytes:
    """The skin and the code that draws: a change there makes every report out of date."""
    digest = hashlib.sha256()
    skin = sorted(path for path in markup.SKIN.rglob("*") if path.is_file())
    rooms = sorted((ROOT / "nexus_tasks").glob("*/**/*.py"))  # all that a page can be made of; commands draw nothing
    for path in [*skin, *rooms]:
        digest.update(str(path.relative_to(ROOT)).encode())
        digest.update(path.read_bytes())
    return digest.digest()


def _make_writable(folder: Path) -> None:
    """Make a folder, and prove before any work is done that files can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise index.unwritable(folder, error) from error


def _tally(wanted: int, rendered: int, failed: int) -> str:
    parts = [f"{rendered} rendered", f"{wanted - rendered - failed} up to date already"]
    return f"{plural(wanted, 'report')}: {', '.join(parts + ([f'{failed} failed'] if failed else []))}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nox -s report --", description="Render run records into HTML reports, those that are not up to date."
    )
    parser.add_argument(
        "words",
        metavar="KIND",
        nargs="*",
        help=f"kinds of records to render (default: all): {', '.join(store.KINDS)}; or a page of chosen records: "
        "compare RUN RUN, tuning BEFORE AFTER, models RUN RUN, history TARGET, where RUN is a run id or its beginning, "
        "a tag, a baseline, last or last-good",
    )
    parser.add_argument("--run", metavar="RUN_ID", help="render this run only")
    parser.add_argument(
        "--results", metavar="DIR", type=Path, default=store.ROOT, help="where the records are (default: %(default)s)"
    )
    parser.add_argument(
        "--reports", metavar="DIR", type=Path, default=REPORTS, help="where the reports go (default: %(default)s)"
    )
    parser.add_argument(
        "-p",
        "--parameter",
        metavar=("NAME", "VALUE"),
        nargs=2,
        action="append",
        default=[],
        help="set a parameter of a notebook (docs/reports.md lists them); may be given again",
    )
    parser.add_argument("--force", action="store_true", help="render reports that are up to date as well")
    return parser


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Command line of this module; see the module's docstring."""
    options = _parser().parse_args(argv)
    out, err = (Console(stderr=stderr, highlight=False, markup=False, soft_wrap=True) for stderr in (False, True))
    shared: dict[str, Any] = {
        "results_dir": options.results,
        "reports_dir": options.reports,
        "parameters": dict(options.parameter),
        "force": options.force,
        "say": out.print,
        "warn": lambda line: err.print(f"warning: {line}"),
    }
    kind, *names = options.words or [""]
    if kind in (*index.CHOSEN, HISTORY):
        path, failures = chosen(kind, names, **shared)
    else:
        unknown = [kind for kind in options.words if kind not in store.KINDS]
        if unknown:
            there = ", ".join((*store.KINDS, *index.CHOSEN, HISTORY))
            raise UsageError(f"unknown kind of record {unknown[0]!r}", hint=f"there is {there}")
        path, failures = report(options.words or store.KINDS, run=options.run, **shared)
    out.print(str(path))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
