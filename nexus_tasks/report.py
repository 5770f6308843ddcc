"""Render run records into HTML reports.

    python -m nexus_tasks.report                       every record that has no up-to-date report
    python -m nexus_tasks.report --run RUN_ID --force  one record, whatever there is
    python -m nexus_tasks.report -p history_runs 5     with another value for a notebook parameter

A record ``results/<kind>/<run id>.jsonl`` becomes ``reports/<kind>/<run id>.html`` with the executed notebook
beside it, and ``reports/index.html`` lists them. Everything in a report comes from records, so ``reports/``
may be deleted at any time. A page carries a fingerprint of what it was made from (record, notebook, skin, the
code that draws, parameters); it is up to date as long as that is unchanged. Reports show history up to their
own run only, so a new record never changes an old report.
"""

from __future__ import annotations

import argparse
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
from pathlib import Path

from rich.console import Console

from nexus_tasks import markup, results, runs
from nexus_tasks.errors import NexusError, RecordError, ReportError, UsageError, command_line
from nexus_tasks.results import Record

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
REPORTS = Path("reports")

RESERVED = frozenset({"record_path", "results_dir"})
DRAWING_CODE = ("blocks.py", "figures.py", "frames.py", "markup.py", "notebook.py", "runs.py", "summary.py")
LATEST_SHOWN = 5
HEAD_BYTES = 2048  # the fingerprint is among a page's first lines

Progress = Callable[[str], None]


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
    from nexus_tasks import notebook  # papermill and what comes with it: a second, so only when it is needed

    record = results.load(record_path)
    kind = str(record.header["kind"])
    source = notebooks_dir / f"{kind}.ipynb"
    values = notebook.check_parameters(source, parameters or {}, RESERVED)
    page = reports_dir / kind / f"{record_path.stem}.html"
    failed = page.with_suffix(".failed.ipynb")
    _make_writable(page.parent)
    try:
        executed = notebook.execute(
            source,
            failed,  # its name until every cell has succeeded
            {"record_path": str(record_path.resolve()), "results_dir": str(results_dir.resolve()), **values},
            cwd=ROOT,
        )
        html = notebook.export(
            executed,
            template=markup.SKIN / "page.html",
            title=f"{record.header['target']}, {record.started_at:%Y-%m-%d %H:%M} UTC",
            inputs=fingerprint(record_path, source, parameters or {}),
        )
        failed.replace(page.with_suffix(".ipynb"))
        _replace(page, html)
    except OSError as error:
        raise _unwritable(page.parent, error) from error
    return page


def fingerprint(record_path: Path, source: Path, parameters: Mapping[str, str]) -> str:
    """A hash of everything that a report is made from."""
    digest = hashlib.sha256(_code_digest())
    digest.update(record_path.read_bytes())
    digest.update(source.read_bytes())
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
    """Write ``<reports_dir>/index.html``, a list of all readable records that have a report; return its path.

    Raises:
        ReportError: the folder cannot be written.
    """
    records = []
    for kind in results.KINDS:
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
        _replace(index, _index_page(records))
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
    """Render the records that lack an up-to-date report, several at a time, and write the index.

    Args:
        kinds: kinds of records.
        run: only the record with this run id.
        force: render up-to-date ones as well.
        say: gets progress lines.
        warn: gets a line for each record that could not be rendered; the others are rendered all the same.

    Returns:
        The path of the index, and how many records could not be rendered.

    Raises:
        UsageError: there is no such run or notebook parameter.
        RecordError: there are no records, or they cannot be listed.
        ReportError: the reports folder cannot be written.
    """
    wanted = _wanted(kinds, run, results_dir)
    _make_writable(reports_dir)
    given = dict(parameters or {})
    if given:
        from nexus_tasks import notebook

        for kind in kinds:
            notebook.check_parameters(notebooks_dir / f"{kind}.ipynb", given, RESERVED)
    stale, unreadable = [], 0
    for kind, path in wanted:
        try:
            results.load(path)
            inputs = fingerprint(path, notebooks_dir / f"{kind}.ipynb", given)
        except RecordError as error:
            unreadable += 1
            warn(f"{error.message}: skipped ({error.hint})")
            continue
        if force or not is_current(reports_dir / kind / f"{path.stem}.html", inputs):
            stale.append(path)
    one = functools.partial(
        render,
        results_dir=results_dir,
        reports_dir=reports_dir,
        notebooks_dir=notebooks_dir,
        parameters=given,
    )
    failed = _render_all(stale, one, say, warn)
    say(_tally(len(wanted), len(stale) - failed, unreadable + failed))
    return write_index(results_dir, reports_dir), unreadable + failed


def _render_all(paths: Sequence[Path], one: Callable[[Path], Path], say: Progress, warn: Progress) -> int:
    """Render in threads: the work is in the kernels, which are processes. Returns how many failed."""
    if not paths:
        return 0
    workers = min(len(paths), os.cpu_count() or 1)
    say(f"rendering {_count(len(paths), 'report')}{f', {workers} at a time' if workers > 1 else ''}")
    importlib.import_module("nexus_tasks.notebook")  # once here, rather than by every thread at the same time
    began = time.monotonic()
    failed = 0
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(one, path): path for path in paths}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                place = f"{done}/{len(paths)}, {time.monotonic() - began:.1f} s"
                try:
                    say(f"  {place}: {future.result()}")
                except NexusError as error:
                    failed += 1
                    warn(f"{futures[future].name}: {error.message} ({error.hint})")
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return failed


def _wanted(kinds: Sequence[str], run: str | None, results_dir: Path) -> list[tuple[str, Path]]:
    found = [(kind, path) for kind in kinds for path in results.paths(kind, results_dir)]
    if run is None:
        return found
    chosen = [(kind, path) for kind, path in found if path.stem == run]
    if not chosen:
        latest = [path.stem for _, path in found][-LATEST_SHOWN:][::-1]
        raise UsageError(f"no run {run!r} in {results_dir}", hint=f"the latest are {', '.join(latest)}")
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


def _index_page(records: Sequence[Record]) -> str:
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
    return markup.fill("index.html", table=markup.table(columns, rows).html, count=len(rows)).html


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
    return f"{_count(wanted, 'record')}: {', '.join(parts + ([f'{failed} failed'] if failed else []))}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nexus_tasks.report", description="Render run records into HTML reports."
    )
    parser.add_argument(
        "kinds",
        metavar="KIND",
        nargs="*",
        help=f"kinds of records to render (default: all): {', '.join(results.KINDS)}",
    )
    parser.add_argument("--run", metavar="RUN_ID", help="render this run only")
    parser.add_argument("--results", metavar="DIR", type=Path, default=results.ROOT, help="where the records are")
    parser.add_argument("--reports", metavar="DIR", type=Path, default=REPORTS, help="where the reports go")
    parser.add_argument(
        "-p",
        "--parameter",
        metavar=("NAME", "VALUE"),
        nargs=2,
        action="append",
        default=[],
        help="set a parameter of the notebook; may be repeated",
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
