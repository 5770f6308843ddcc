"""The command that holds benchmark runs against one another; for people and as a gate.

    python -m nexus_tasks.compare before after              # run ids or their beginnings, tags, paths, baselines
    python -m nexus_tasks.compare last-good last
    python -m nexus_tasks.compare --save-baseline v1 last
    python -m nexus_tasks.compare --against v1 --fail-on cant-tell

The work is done in nexus_tasks/comparison; docs/compare.md explains it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from nexus_tasks.comparison import baselines, comparable, gate, quantities, selection, simulation, text, verdicts
from nexus_tasks.comparison.comparable import names
from nexus_tasks.comparison.naming import LAST
from nexus_tasks.comparison.quantities import QUANTITIES
from nexus_tasks.core import arguments, numbers
from nexus_tasks.core.errors import UsageError, command_line
from nexus_tasks.records import store


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="nox -s compare --",
        description="Compare benchmark runs: B against A.",
        epilog="A RUN is a run id or its beginning, a tag (all runs that have it, as repeats), a saved baseline, the "
        "path of a record, last, or last-good (the newest good run of the other's target and workload before it); "
        "several with commas between them are repeats. Exit status: 0 nothing is worse, 1 the runs can't be compared, "
        "3 something is worse, 4 something can't be told (only with --fail-on cant-tell). docs/compare.md says more.",
    )
    made.add_argument("run", metavar="RUN", nargs="*", help="A and B; with --against B alone (default: last)")
    made.add_argument("--against", metavar="NAME", help="what B is held against: a baseline or any other RUN")
    made.add_argument("--save-baseline", metavar="NAME", help="remember RUN (default: last) under this name, and stop")
    made.add_argument(
        "--fail-on",
        choices=tuple(gate.FAIL_ON),
        default="worse",
        help="what makes the exit status 3 (worse) or 4 (can't tell) (default: %(default)s)",
    )
    made.add_argument(
        "--across",
        choices=comparable.WHAT_MAY_DIFFER,
        action="append",
        default=[],
        help="what is compared and may differ",
    )
    made.add_argument(
        "--margin",
        metavar="NAME=PERCENT",
        action="append",
        default=[],
        help="equivalence margin, up to which changes don't matter: "
        + ", ".join(f"{one.name}={one.margin_percent:g}" for one in QUANTITIES),
    )
    made.add_argument("--json", action="store_true", help="print JSON and nothing else")
    made.add_argument(
        "--simulate", metavar="TRIALS", nargs="?", type=numbers.whole, const=2000,
        help="show the statistical power of comparisons, and how often they are wrong (2000)",
    )  # fmt: skip
    made.add_argument(
        "--results", type=Path, default=store.ROOT, metavar="DIR", help="where records are (default: %(default)s)"
    )
    return made


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Compare, or save a baseline, or simulate; the exit status is that of the verdict."""
    options = arguments.parse(parser(), argv)
    console = Console()
    if options.simulate is not None:
        if options.simulate < 1:
            raise UsageError(f"--simulate must be 1 or more, not {options.simulate}", hint="rates take about 2000")
        return simulation.show(options.simulate, console)
    if options.save_baseline is not None:
        if options.against or len(options.run) > 1:
            raise UsageError("--save-baseline needs exactly one run", hint="nox -s compare -- --save-baseline NAME RUN")
        records = selection.find(options.run[0] if options.run else LAST, options.results)
        baselines.save(options.save_baseline, records, options.results)
        console.print(
            f"baseline {options.save_baseline}: {names(records)}", soft_wrap=True, highlight=False, markup=False
        )
        return 0
    wanted = [options.against, *(options.run or [LAST])] if options.against else options.run
    if len(wanted) != 2:
        raise UsageError(
            f"a comparison needs two runs, not {len(wanted)}", hint="nox -s compare -- A B, or --against NAME [B]"
        )
    a, b = selection.both(wanted, options.results)
    margins = quantities.margins(options.margin)
    comparisons = [
        verdicts.judge(first, second, across=options.across, margins=margins)
        for first, second in comparable.pairs(a, b)
    ]
    if options.json:
        sys.stdout.write(json.dumps([comparison.as_row() for comparison in comparisons], indent=2) + "\n")
    else:
        for comparison in comparisons:
            text.show(comparison, console)
    return gate.exit_status(comparisons, options.fail_on)


if __name__ == "__main__":
    sys.exit(main())
