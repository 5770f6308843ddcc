"""Benchmark records as tables for other programs: CSV, Parquet or JSON.

    python -m nexus_tasks.export                              the last run, as Parquet, to exports/
    python -m nexus_tasks.export before after --format csv    run ids or their beginnings, tags, baselines

Six tables, each with the column ``run_id``: ``runs``, ``stages``, ``requests``, ``tokens`` (one row a token, when it
came), ``samples`` and ``gpus`` (telemetry). Units are in the columns' names, as in docs/records.md; ``t_s`` is in
seconds after the run began. The rows of warm-ups and failures are there too: ``phase`` and ``ok`` tell them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from nexus_tasks.comparison import selection
from nexus_tasks.comparison.naming import LAST
from nexus_tasks.core import arguments
from nexus_tasks.core.errors import command_line
from nexus_tasks.records import store
from nexus_tasks.views import table_files
from nexus_tasks.views.table_files import FORMATS

EXPORTS = Path("exports")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nox -s export --", description="Write benchmark records as tables for other programs."
    )
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="*",
        default=[LAST],
        help="a run id or its beginning, a tag (all runs that have it), a baseline, or last (default: %(default)s)",
    )
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="of the files (default: %(default)s)")
    parser.add_argument(
        "--to", metavar="DIR", type=Path, default=EXPORTS, help="where the files go (default: %(default)s)"
    )
    parser.add_argument(
        "--results", metavar="DIR", type=Path, default=store.ROOT, help="where the records are (default: %(default)s)"
    )
    return parser


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Command line of this module; see the module's docstring."""
    options = arguments.parse(_parser(), argv)
    out = Console(highlight=False, markup=False, soft_wrap=True)
    found = {record.run_id: record for name in options.runs for record in selection.find(name, options.results)}
    for path in table_files.write(found.values(), options.format, options.to):
        out.print(str(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
