"""Deploy, watched: ``ansible-playbook deploy.yml`` with a line a host, and what was proven at the end.

    python -m nexus_tasks.deploy -l gpu-hosts
    python -m nexus_tasks.deploy -l rig-1 --check --diff
    python -m nexus_tasks.deploy -l gpu-hosts --json > deployed.json

All arguments but ``--json`` are those of ansible-playbook. Its own output goes to ``logs/deploy-<time>.log``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from nexus_tasks.core.errors import DeployError, UsageError, command_line
from nexus_tasks.fleet import playbook, terminal, verbs
from nexus_tasks.fleet.playbook import Outcome
from nexus_tasks.hostlib import server_tables
from nexus_tasks.hostlib.terminal_text import columns
from nexus_tasks.records import store

# Short options of ansible-playbook that take no value can stand together.
SHORT = "[bCDvkKJ]*"
# ansible-playbook runs without a terminal of its own here, where nobody would see it ask.
ASKS = re.compile(f"-{SHORT}[kKJ]{SHORT}|--ask-pass|--ask-become-pass|--ask-vault-pass(word)?|--step|.*@prompt")
CHECKS = re.compile(f"-{SHORT}C{SHORT}|--check")


def records() -> set[Path]:
    """The run records of deployments that there are."""
    return set((store.ROOT / "deployment").glob("*.jsonl"))


def summary(outcome: Outcome, *, check: bool) -> list[tuple[str, str]]:
    """By host what became of it, in a word or two, and for how long a server was away."""
    lines = []
    for host in outcome.hosts:
        rows = outcome.rows.get(host, [])
        gaps = [row.get("downtime_seconds") or 0.0 for row in rows]
        if host in outcome.unreachable:
            verdict = "unreachable"
        elif host in outcome.failures:
            verdict = "failed"
        elif not check and any(row["state"] == "planned" for row in rows):
            verdict = "left as it was, because another host failed first"
        elif outcome.stats.get("changed", {}).get(host):
            verdict = "would change" if check else "changed"
        else:
            verdict = "unchanged"
        lines.append((host, f"{verdict}, {max(gaps):.1f} s without service" if any(gaps) else verdict))
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nox -s deploy --",
        usage="nox -s deploy -- [--json] [ARGUMENT OF ansible-playbook]...",
        description="Build, fetch, serve and prove on the hosts of the inventory, as ansible-playbook deploy.yml does, "
        "with a line a host. For example: -l gpu-hosts --check --diff",
        epilog="The other arguments are those that ansible-playbook --help lists, but for those that make it ask.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON, for programs")
    return parser


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    own, arguments = _parser().parse_known_args(argv)
    if asking := [argument for argument in arguments if ASKS.fullmatch(argument)]:
        raise UsageError(
            f"{asking[0]} would ask where nobody sees it",
            hint="use ansible-playbook deploy.yml, or a file: --become-password-file, --vault-password-file",
        )
    console = Console(stderr=own.json)
    log, before = playbook.new_log(), records()
    try:
        outcome = playbook.run("deploy.yml", *arguments, console=console, log=log, check=False)
    except KeyboardInterrupt:
        sys.stderr.write(f"{verbs.GOES_ON}; Ansible's output is in {log}\n")
        raise
    rows = verbs.rows_of(outcome)
    if own.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    if proven := [row for row in rows if row["name"]]:
        console.print()
        terminal.show(console, server_tables.proof_table(proven, terminal.width(console)))
    places = summary(outcome, check=any(map(CHECKS.fullmatch, arguments)))
    written = sorted(records() - before)
    if written or outcome.hosts:  # else it failed before it came to a host
        places.append(("record", str(written[-1]) if written else "none was written: a warning above says why"))
    console.print()
    for line in columns([*places, ("log", str(log))]):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if outcome.status != 0:
        raise DeployError(outcome.problem(), hint="mend it and deploy again: what is done stays done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
