"""Render run records into HTML reports.

    python -m nexus_tasks.report                       every report that is not up to date
    python -m nexus_tasks.report --run RUN_ID --force  one record, whatever there is
    python -m nexus_tasks.report -p history_runs 5     with another value for a notebook parameter
    python -m nexus_tasks.report compare RUN RUN       a page of chosen records: compare, tuning or models
    python -m nexus_tasks.report history TARGET        the history of one target

:mod:`nexus_tasks.reports.site` says which pages there are, :mod:`nexus_tasks.reports.rendering` when one is up to date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from nexus_tasks.core import arguments
from nexus_tasks.core.errors import UsageError, command_line
from nexus_tasks.records import store
from nexus_tasks.reports import index, rendering, site


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
        "--reports", metavar="DIR", type=Path, default=site.REPORTS, help="where the reports go (default: %(default)s)"
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
    given = arguments.parse(_parser(), argv)
    out, err = (Console(stderr=stderr, highlight=False, markup=False, soft_wrap=True) for stderr in (False, True))
    folders = site.Folders(given.results, given.reports)
    options = rendering.Options(
        parameters=dict(given.parameter),
        force=given.force,
        say=out.print,
        warn=lambda line: err.print(f"warning: {line}"),
    )
    kind, *names = given.words or [""]
    if kind in index.CHOSEN:
        path, failures = site.compare(kind, names, folders=folders, options=options)
    elif kind == site.HISTORY:
        if len(names) != 1:
            raise UsageError(f"a history needs one target, not {len(names)}", hint="nox -s report -- history TARGET")
        path, failures = site.history(names[0], folders=folders, options=options)
    else:
        unknown = [kind for kind in given.words if kind not in store.KINDS]
        if unknown:
            there = ", ".join((*store.KINDS, *index.CHOSEN, site.HISTORY))
            raise UsageError(f"unknown kind of record {unknown[0]!r}", hint=f"there is {there}")
        path, failures = site.update(given.words or store.KINDS, run=given.run, folders=folders, options=options)
    out.print(str(path))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
