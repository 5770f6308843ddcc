"""Render run records into HTML reports.

    python -m nexus_tasks.report                       every report that is not up to date
    python -m nexus_tasks.report --run RUN_ID --force  one record, whatever there is
    python -m nexus_tasks.report -p history_runs 5     with another value for a notebook parameter

A record ``results/<kind>/<run id>.jsonl`` becomes ``reports/<kind>/<run id>.html`` with the executed notebook
beside it; all deployment records together become ``reports/fleet/fleet.html`` and ``reports/builds/builds.html``.
``reports/index.html`` lists the pages. Everything in a report comes from records, so ``reports/`` may be deleted at
any time. A page carries a fingerprint of what it was made from (records, notebook, skin, the code that draws,
parameters); it is up to date as long as that is unchanged. A run's page shows history up to that run only, so a new
record never changes it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import importlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from nexus_tasks import builds, fleet, markup, results, runs
from nexus_tasks.errors import NexusError, RecordError, ReportError, UsageError, command_line
from nexus_tasks.results import Record

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
REPORTS = Path("reports")

TOGETHER = {"deployment": ("fleet", "builds")}  # kinds whose records are shown together, and what the pages are called
RESERVED = frozenset({"record_path", "results_dir"})
DRAWING_CODE = (
    "blocks.py", "builds.py", "builds_blocks.py", "figures.py", "fleet.py", "frames.py", "markup.py", "notebook.py",
    "role.py", "runs.py", "summary.py",
)  # fmt: skip
LATEST_SHOWN = 5
HEAD_BYTES = 2048  # the fingerprint is among a page's first lines

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Page:
    """A page to be: its notebook, the records that it shows, and where it goes.

    ``set_by_us`` are the notebook's parameters that say which records, ``given`` those that the user typed.
    """

    path: Path
    source: Path
    records: tuple[Path, ...]
    title: str
    set_by_us: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)


def render(
    record_path: Path,
    *,
    results_dir: Path = results.ROOT,
    reports_dir: Path = REPORTS,
    notebooks_dir: Path = NOTEBOOKS,
    parameters: Mapping[str, str] | None = None,
) -> Path:
    """Render one record, and return the path of the page. The executed notebook lies beside it.

    Args:
        record_path: a run record.
        results_dir: where earlier runs of the same target are looked for.
        reports_dir: the page becomes ``<reports_dir>/<kind>/<run id>.html``.
        notebooks_dir: holds ``<kind>.ipynb``.
        parameters: notebook parameters by name, as typed.

    Raises:
        RecordError: the record is damaged.
        UsageError: the notebook has no such parameter.
        ReportError: a cell failed (an earlier page is left as it was), or the folder cannot be written.
    """
    record = results.load(record_path)
    return _render(_page_of_run(record, results_dir, reports_dir, notebooks_dir, parameters or {}))


def fingerprint(records: Sequence[Path], source: Path, parameters: Mapping[str, str]) -> str:
    """A hash of everything that a report is made from."""
    digest = hashlib.sha256(_code_digest())
    for path in [*records, source]:
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError:  # a record that nobody can read is told of in the page
            digest.update(b"unreadable")
    digest.update(json.dumps(dict(parameters), sort_keys=True).encode())
    return digest.hexdigest()


def is_current(page: Path, inputs: str) -> bool:
    """Whether a page exists and was made from these inputs."""
    try:
        with page.open("rb") as stream:
            head = stream.read(HEAD_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return False
    found = re.search(r'<meta content="(\w+)" name="llama-nexus-inputs"', head) or re.search(
        r'<meta name="llama-nexus-inputs" content="(\w+)"', head
    )
    return found is not None and found[1] == inputs


def write_index(results_dir: Path = results.ROOT, reports_dir: Path = REPORTS) -> Path:
    """Write ``<reports_dir>/index.html``: the pages of all deployments, and the records that have one; return its path.

    Raises:
        ReportError: the folder cannot be written.
    """
    records = []
    for kind in [kind for kind in results.KINDS if kind not in TOGETHER]:
        for path in (results_dir / kind).glob("*.jsonl"):
            if (reports_dir / kind / f"{path.stem}.html").is_file():
                try:
                    records.append(results.load(path))
                except RecordError:
                    continue  # who renders it hears of it; a list isn't the place
    records.sort(key=lambda record: record.started_at, reverse=True)
    _make_writable(reports_dir)
    index = reports_dir / "index.html"
    try:
        _replace(index, _index_page(records, _told(results_dir, reports_dir)))
    except OSError as error:
        raise _unwritable(reports_dir, error) from error
    return index


def report(
    kinds: Sequence[str] = results.KINDS,
    *,
    run: str | None = None,
    results_dir: Path = results.ROOT,
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
    names = [name for kind in found for name in TOGETHER.get(kind, (kind,))]
    sources = {name: notebooks_dir / f"{name}.ipynb" for name in names}
    given = _for_each(list(sources.values()), parameters or {})
    readable: dict[str, list[Record]] = {kind: [] for kind in found}
    unreadable = 0
    for kind, path in [(kind, path) for kind, paths in found.items() for path in paths]:
        try:
            readable[kind].append(results.load(path))
        except RecordError as error:
            unreadable += 1
            warn(f"{error.message}: skipped ({error.hint})")
    pages = []
    for kind, records in readable.items():
        if kind not in TOGETHER:
            pages += [
                _page_of_run(record, results_dir, reports_dir, notebooks_dir, given[sources[kind]])
                for record in records
            ]
        elif records:
            pages += [
                _page_of_all(name, found[kind], results_dir, reports_dir, sources[name], given[sources[name]])
                for name in TOGETHER[kind]
            ]
    stale = [page for page in pages if force or not is_current(page.path, _inputs(page))]
    failed = _render_all(stale, say, warn)
    say(_tally(len(pages) + unreadable, len(stale) - failed, unreadable + failed))
    return write_index(results_dir, reports_dir), unreadable + failed


def _page_of_run(
    record: Record, results_dir: Path, reports_dir: Path, notebooks_dir: Path, given: Mapping[str, str]
) -> Page:
    kind = str(record.header["kind"])
    return Page(
        path=reports_dir / kind / f"{record.path.stem}.html",
        source=notebooks_dir / f"{kind}.ipynb",
        records=(record.path,),
        title=f"{record.header['target']}, {record.started_at:%Y-%m-%d %H:%M} UTC",
        set_by_us={"record_path": str(record.path.resolve()), "results_dir": str(results_dir.resolve())},
        given=given,
    )


def _page_of_all(
    name: str, paths: Sequence[Path], results_dir: Path, reports_dir: Path, source: Path, given: Mapping[str, str]
) -> Page:
    return Page(
        path=reports_dir / name / f"{name}.html",
        source=source,
        records=tuple(paths),
        title=name.capitalize(),
        set_by_us={"results_dir": str(results_dir.resolve())},
        given=given,
    )


def _inputs(page: Page) -> str:
    return fingerprint(page.records, page.source, page.given)


def _render(page: Page) -> Path:
    """Execute the notebook, and write the page where that succeeds."""
    from nexus_tasks import notebook  # papermill and what comes with it: a second, so only when it is needed

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
        html = notebook.export(executed, template=markup.SKIN / "page.html", title=page.title, inputs=inputs)
        failed.replace(page.path.with_suffix(".ipynb"))
        _replace(page.path, html)
    except OSError as error:
        raise _unwritable(page.path.parent, error) from error
    return page.path


def _render_all(pages: Sequence[Page], say: Progress, warn: Progress) -> int:
    """Render in threads: the work is in the kernels, which are processes. Returns how many failed."""
    if not pages:
        return 0
    workers = min(len(pages), os.cpu_count() or 1)
    say(f"rendering {_count(len(pages), 'report')}{f', {workers} at a time' if workers > 1 else ''}")
    importlib.import_module("nexus_tasks.notebook")  # once here, rather than by every thread at the same time
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
    found = {kind: results.paths(kind, results_dir, required=False) for kind in kinds}
    if not any(found.values()):
        results.paths(kinds[0], results_dir)  # says so
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

    from nexus_tasks import notebook

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
    for path in [*skin, *(Path(__file__).with_name(name) for name in DRAWING_CODE)]:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.digest()


def _told(results_dir: Path, reports_dir: Path) -> list[tuple[str, str, str, list[str]]]:
    """The pages of all deployments as the index shows them: title, link, tone and sentences, of each that there is."""
    told = []
    for name, tell in (("fleet", _tell_fleet), ("builds", _tell_builds)):
        page = reports_dir / name / f"{name}.html"
        with contextlib.suppress(RecordError):
            if page.is_file():
                told.append((name.capitalize(), f"{name}/{page.name}", *tell(results_dir)))
    return told


def _tell_fleet(results_dir: Path) -> tuple[str, list[str]]:
    state = fleet.read(results_dir)
    return "good" if state.well else "bad", fleet.sentences(state)


def _tell_builds(results_dir: Path) -> tuple[str, list[str]]:
    state = builds.read(results_dir)
    return builds.tone(state), builds.sentences(state)


def _index_page(records: Sequence[Record], told: Sequence[tuple[str, str, str, list[str]]]) -> str:
    columns = [
        markup.Column("When", "UTC", numeric=False),
        markup.Column("Target", numeric=False),
        markup.Column("Model", numeric=False),
        markup.Column("Workload", "prompt/output tokens", numeric=False),
        markup.Column("TTFT", "ms"),
        markup.Column("Decode", "tokens/s"),
        markup.Column("Verdict", numeric=False),
    ]
    rows: markup.Rows = []
    for record in records:
        measured = runs.metrics(record)
        tone, verdict = runs.verdict(record)
        rows.append(
            [
                markup.Cell(
                    f"{record.started_at:%Y-%m-%d %H:%M:%S}",
                    link=f"{record.header['kind']}/{record.path.stem}.html",
                ),
                str(record.header["target"]),
                runs.model_name(record),
                runs.sizes(record),
                markup.number(measured.get("ttft_ms", {}).get("median")),
                markup.number(measured.get("decode_tps", {}).get("median")),
                markup.Cell(verdict, tone),
            ]
        )
    return markup.fill("index.html", table=markup.table(columns, rows).html, count=len(rows), told=told).html


def _make_writable(folder: Path) -> None:
    """Make a folder, and prove before any work is done that files can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error


def _replace(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _unwritable(folder: Path, error: OSError) -> ReportError:
    return ReportError(
        f"cannot write reports to {folder}: {error.strerror}",
        hint="make the folder writable, or choose another one with --reports",
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _tally(wanted: int, rendered: int, failed: int) -> str:
    parts = [f"{rendered} rendered", f"{wanted - rendered - failed} up to date already"]
    return f"{_count(wanted, 'report')}: {', '.join(parts + ([f'{failed} failed'] if failed else []))}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nox -s report --", description="Render run records into HTML reports, those that are not up to date."
    )
    parser.add_argument(
        "kinds",
        metavar="KIND",
        nargs="*",
        help=f"kinds of records to render (default: all): {', '.join(results.KINDS)}",
    )
    parser.add_argument("--run", metavar="RUN_ID", help="render this run only")
    parser.add_argument(
        "--results", metavar="DIR", type=Path, default=results.ROOT, help="where the records are (default: %(default)s)"
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
    unknown = [kind for kind in options.kinds if kind not in results.KINDS]
    if unknown:
        raise UsageError(f"unknown kind of record {unknown[0]!r}", hint=f"there is {', '.join(results.KINDS)}")
    out, err = (Console(stderr=stderr, highlight=False, markup=False, soft_wrap=True) for stderr in (False, True))
    index, failures = report(
        options.kinds or results.KINDS,
        run=options.run,
        results_dir=options.results,
        reports_dir=options.reports,
        parameters=dict(options.parameter),
        force=options.force,
        say=out.print,
        warn=lambda line: err.print(f"warning: {line}"),
    )
    out.print(str(index))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
