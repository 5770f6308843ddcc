"""Show a fleet live in the terminal: what its servers and GPUs do now.

    python -m nexus_tasks.monitor                       # gpu-hosts, or local while that is empty; Ctrl-C ends it
    python -m nexus_tasks.monitor rig-1/main http://...
    python -m nexus_tasks.monitor --once --json

Nothing is written anywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack

from rich.console import Console
from rich.live import Live

from nexus_tasks.core import arguments, numbers
from nexus_tasks.core.errors import UsageError, command_line
from nexus_tasks.fleet import inventory
from nexus_tasks.fleet.live import rows, table, watching
from nexus_tasks.fleet.live.watching import WatchedFleet

INTERVAL_S = 1.0
FIRST_S = 30.0
"""Longest time that ``--once`` waits for the slowest, ssh included."""


def show(shown: WatchedFleet, console: Console, *, interval_s: float, once: bool, as_lines: bool) -> None:
    """Show it until Ctrl-C, or once."""
    with shown.followed(interval_s), ExitStack() as stack:
        if once:
            deadline = time.monotonic() + FIRST_S
            while time.monotonic() < deadline and not all(watch.settled for watch in shown.watches):
                time.sleep(0.05)
            _print(shown, console, as_lines)
            return
        live = None
        if console.is_terminal and not as_lines:
            live = stack.enter_context(
                Live(console=console, auto_refresh=False, get_renderable=lambda: table.picture(shown))
            )
        while True:
            time.sleep(interval_s)
            if live:
                live.refresh()
            else:
                _print(shown, console, as_lines)


def _print(shown: WatchedFleet, console: Console, as_lines: bool) -> None:
    if as_lines:
        sys.stdout.write(json.dumps(rows.fleet_row(shown)) + "\n")
        sys.stdout.flush()
    else:
        console.print(table.picture(shown))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nox -s monitor --", description="Show the fleet live; Ctrl-C ends it.")
    parser.add_argument(
        "targets", metavar="TARGET", nargs="*",
        help="an inventory pattern, HOST/INSTANCE, a base URL, or @NAME "
        f"(default: all on {inventory.FLEET}, or on {inventory.HERE} while that is empty)",
    )  # fmt: skip
    parser.add_argument(
        "--interval",
        type=numbers.number,
        default=INTERVAL_S,
        metavar="S",
        help="seconds between looks (default: %(default)g)",
    )
    parser.add_argument("--once", action="store_true", help="show it once; exit status 1 when an instance is down")
    parser.add_argument("--json", action="store_true", help="print a line of JSON each time, for programs")
    return parser


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Show it; with ``--once``, 1 when anything is down."""
    options = arguments.parse(_parser(), argv)
    if not 0.1 <= options.interval <= threading.TIMEOUT_MAX:
        raise UsageError(
            f"--interval must be 0.1 or more, and short enough to wait for, not {options.interval:g}",
            hint="give it in seconds",
        )
    shown = watching.of_targets(options.targets)
    with contextlib.suppress(KeyboardInterrupt):  # which is how it is meant to end
        try:
            show(shown, Console(), interval_s=options.interval, once=options.once, as_lines=options.json)
        except BrokenPipeError:  # who reads it has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
    return 1 if options.once and not all(rows.instance_row(watch)["up"] for watch in shown.instances) else 0


if __name__ == "__main__":
    sys.exit(main())
