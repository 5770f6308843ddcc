"""Usage of the fleet: requests and tokens by user, model and time, as the logs of its gateways have it.

    python -m nexus_tasks.usage                                  today, by user and model
    python -m nexus_tasks.usage --since 7d --by day,user
    python -m nexus_tasks.usage rig-1 --since 2026-11-01 --until 2026-12-01 --json

The logs are added up on the gateways; a record of what they say goes to results/usage, of which nox -s report makes a
page. docs/gateway.md says what is counted, and how.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from nexus_tasks.accounting import collecting, periods, totals, usage_text
from nexus_tasks.accounting.collecting import Usage
from nexus_tasks.core import arguments
from nexus_tasks.core.errors import UsageError, command_line
from nexus_tasks.records import store


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nox -s usage --", description="Tell who used what, of the logs of the fleet's gateways."
    )
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", help="gateways of the inventory (default: all)")
    parser.add_argument(
        "--since", metavar="WHEN", default="today", help=f"{periods.MEANT}, or today (default: %(default)s)"
    )
    parser.add_argument("--until", metavar="WHEN", help="the same, for the end (default: now)")
    parser.add_argument(
        "--by", metavar="KEYS", default="user,model", help=f"some of {', '.join(totals.KEYS)} (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="write JSON, for programs")
    parser.add_argument(
        "--results", type=Path, default=store.ROOT, metavar="DIR", help="where the record goes (default: %(default)s)"
    )
    return parser


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Command line of this module; see the module's docstring."""
    given = arguments.parse(_parser(), argv)
    keys, now = totals.keys_of(given.by), datetime.now(UTC)
    since = periods.moment(given.since, now)
    until = periods.moment(given.until, now) if given.until else now + timedelta(seconds=1)
    if since >= until:
        raise UsageError("the time that is asked for has no length", hint="let --since be before --until and now")
    usage = collecting.collect(given.pattern, since, until)
    path = collecting.write(usage, given.results)
    if given.json:
        sys.stdout.write(json.dumps(_as_json(usage, keys), indent=2) + "\n")
    else:
        out = Console(highlight=False, markup=False, soft_wrap=True)
        for line in usage_text.lines(usage, keys, out.width):
            out.print(line)
    for host, why in usage.lost.items():
        sys.stderr.write(f"{host}: {why}\n")
    sys.stderr.write(f"record: {path}\n")
    return 1 if usage.lost else 0


def _as_json(usage: Usage, keys: Sequence[str]) -> dict[str, object]:
    return {
        "since": usage.since.isoformat(timespec="seconds"),
        "until": usage.until.isoformat(timespec="seconds"),
        "gateways": usage.gateways,
        "by": list(keys),
        "rows": [total.as_json() for total in totals.by(usage.rows, keys, usage.bounds_ms)],
        "damaged": usage.damaged,
        "lost": dict(usage.lost),
    }


if __name__ == "__main__":
    sys.exit(main())
