"""Measure how exact the load generator is and what it costs, against a server with a known schedule.

    nox -s accuracy [-- --json]

docs/accuracy.md says what each figure means; :mod:`nexus_tasks.load.selfcheck` measures them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from nexus_tasks.core.errors import UsageError, command_line
from nexus_tasks.load.selfcheck.costs import SHARES
from nexus_tasks.load.selfcheck.figures import measure


def print_tables(figures: Mapping[str, Any], console: Console) -> None:
    """All figures, as tables that fit 80 columns."""
    table = Table(title="error of what is reported, ms (TTFT 50, ITL 5)", title_justify="left", title_style="bold")
    for column in ("concurrency", "TTFT median", "p99", "ITL median", "p99", "in flight"):
        table.add_column(column, justify="right")
    for row in figures["errors"]:
        numbers = (row[f"{metric}_{which}_ms"] for metric in ("ttft", "itl") for which in ("median", "p99"))
        table.add_row(str(row["concurrency"]), *(f"{number:.3f}" for number in numbers), _number(row["in_flight"]))
    console.print(table)
    table = Table(title="cost: tokens per second, and per second of CPU", title_justify="left", title_style="bold")
    for column in ("", "per s", "per CPU-s, streaming", "with record", "tokens per piece"):
        table.add_column(column, justify="right" if column else "left")
    for name, both in figures["costs"].items():
        for label, row in ((name, both["load"]), ("  bare C", both["bare"])):
            numbers = (f"{row[key]:,.0f}" for key in SHARES)
            table.add_row(label, *numbers, f"{row['tokens_per_piece']:.2f}")
        table.add_row("  share", *(f"{both['share'][key]:.2f}" for key in SHARES), "")
    console.print(table)
    table = Table(title="bounds", title_justify="left", title_style="bold")
    for column in ("", "measured", "bound", ""):
        table.add_column(column, justify="right" if column else "left")
    for check in figures["checks"]:
        limit = f"{'≤' if check['at_most'] else '≥'} {_number(check['bound'])}"
        table.add_row(check["name"], _number(check["value"]), limit, "ok" if check["ok"] else "[bold red]missed[/]")
    console.print(table)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3f}"


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when a bound is missed."""
    parser = argparse.ArgumentParser(
        prog="nox -s accuracy --",
        description="Measure the load generator's error and cost against a server with a known schedule.",
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the tokens: rough figures in seconds")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON and nothing else")
    options = parser.parse_args(argv)
    if sys.platform != "linux":
        raise UsageError("this needs Linux: the server is built on epoll", hint="run it in a container or on a host")
    console = Console(stderr=True) if options.json else Console()

    def step(name: str) -> None:
        console.print(f"  {name} ...", highlight=False)

    figures = measure(step, scale=0.1 if options.quick else 1.0, trials=1 if options.quick else 5)
    if options.json:
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    else:
        print_tables(figures, console)
    return 0 if all(check["ok"] for check in figures["checks"]) else 1


if __name__ == "__main__":
    sys.exit(main())
