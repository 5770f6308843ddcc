"""Look after servers that are deployed: what runs, its logs, start, stop, restart, back to what was proven before.

    python -m nexus_tasks.control status
    python -m nexus_tasks.control logs rig-1/main --lines 200
    python -m nexus_tasks.control restart gpu-hosts --instance main
    python -m nexus_tasks.control status --json

Each verb is a playbook of the same name, and so are its texts: ``ansible-playbook playbooks/status.yml`` says the same.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from rich.console import Console

from nexus_tasks.core import numbers
from nexus_tasks.core.arguments import parse
from nexus_tasks.core.errors import DeployError, UsageError, command_line
from nexus_tasks.fleet import patterns, terminal, verbs
from nexus_tasks.fleet.inventory import FLEET, HERE
from nexus_tasks.fleet.playbook import Outcome
from nexus_tasks.fleet.verbs import GOES_ON, LINES, LOOKING, VERBS, Row
from nexus_tasks.hostlib import server_tables


def _verbs() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nexus_tasks.control",
        description="Look after servers that are deployed. Each verb is a nox session, too.",
        epilog="\n".join(f"{verb:<8}  {what}" for verb, what in VERBS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", metavar="VERB", choices=VERBS, help=", ".join(VERBS))
    parser.add_argument("arguments", metavar="ARGUMENT", nargs=argparse.REMAINDER, help="VERB --help lists them")
    return parser


def _parser(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"nox -s {verb} --", description=VERBS[verb])
    left_out = f"(default: {FLEET}, or {HERE} while that is empty)"
    if verb not in LOOKING:
        left_out = f"(needed as soon as {FLEET} has a host; else the default is {HERE})"
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", help=f"inventory pattern or HOST/INSTANCE {left_out}")
    parser.add_argument(
        "--instance", metavar="NAME", action="append", default=[],
        help="only the instances of this name; may be given again",
    )  # fmt: skip
    if verb == "logs":
        parser.add_argument(
            "--lines", metavar="N", type=numbers.whole, default=LINES, help="of each log (default: %(default)s)"
        )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON, for programs")
    return parser


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    begun = _verbs().parse_args(argv)
    verb = begun.verb
    arguments = parse(_parser(verb), begun.arguments, argparse.Namespace(lines=LINES))
    if arguments.lines < 1:
        raise UsageError(f"--lines must be 1 or more, not {arguments.lines}", hint=f"{LINES} are shown without it")
    hosts, instance = (None, "") if arguments.pattern is None else patterns.split(arguments.pattern)
    instances = [*arguments.instance, *filter(None, [instance])]
    console = Console(stderr=arguments.json)
    try:
        outcome = verbs.run(verb, verbs.chosen_pattern(verb, hosts), instances, lines=arguments.lines, console=console)
    except KeyboardInterrupt:
        if verb not in LOOKING:
            sys.stderr.write(f"{GOES_ON}\n")
        raise
    rows = verbs.rows_of(outcome)
    if arguments.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        _print(verb, rows, outcome, console)
    # A status says all of a host in its table; of what failed elsewhere, the end of the log is in the message.
    in_table = {row["host"] for row in rows if row["error"]} if verb in LOOKING else set()
    elsewhere = [f"{host}: {message}" for host, message in outcome.failures.items() if host not in in_table]
    if elsewhere:
        raise DeployError("\n".join(elsewhere), hint=f"mend it and {verb} again; nox -s status shows what runs")
    return 1 if outcome.status != 0 or any(row.get("trouble") for row in rows) else 0


def _print(verb: str, rows: Sequence[Row], outcome: Outcome, console: Console) -> None:
    if verb not in LOOKING:  # what kept it from its end on a host follows as an error
        rows = [row for row in rows if row["name"]]
    if rows and verb == "logs":
        sys.stdout.write(server_tables.log_text(rows) + "\n")
    elif rows:
        table = server_tables.status_table if verb == "status" else server_tables.proof_table
        terminal.show(console, table(rows, terminal.width(console)))
    for host in outcome.hosts:
        if host not in outcome.failures and not outcome.rows.get(host):
            what = "nothing is deployed" if verb in LOOKING else f"nothing to {verb}"
            console.print(f"{host}: {what}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
