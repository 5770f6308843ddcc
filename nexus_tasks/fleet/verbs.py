"""Verbs of a deployed fleet: what runs, its logs, start, stop, restart, rollback.

    outcome = verbs.run("restart", verbs.chosen_pattern("restart", "rig-1"), ["main"], console=console)
    verbs.rows_of(outcome)                          # the instances of all hosts

Each verb is a playbook of the same name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from nexus_tasks.core.errors import UsageError
from nexus_tasks.fleet import playbook
from nexus_tasks.fleet.inventory import FLEET, HERE, default_pattern
from nexus_tasks.fleet.playbook import Outcome
from nexus_tasks.hostlib.server_rows import UNREACHABLE

VERBS = {
    "status": "Show what runs.",
    "logs": "Show the ends of the logs.",
    "start": "Start servers, and prove them.",
    "stop": "Drain and stop servers, until they are started or deployed again.",
    "restart": "Drain and restart servers, host by host, and prove each.",
    "rollback": "Go back to the generation proven before, host by host, and prove it.",
}
LOOKING = ("status", "logs")
GOES_ON = "what was begun on the hosts goes on there, up to a proven server: nox -s status shows it"
LINES = 50  # of each log

Row = dict[str, Any]


def chosen_pattern(verb: str, pattern: str | None) -> str:
    """The hosts that a verb is about.

    Raises:
        UsageError: nobody said which GPU hosts should lose their servers.
    """
    if pattern is not None:
        return pattern
    default = default_pattern()
    if default == FLEET and verb not in LOOKING:
        raise UsageError(
            f"{verb} needs a pattern of hosts: without one it would be all of {FLEET}",
            hint=f"nox -s {verb} -- {FLEET}, or -- HOST, HOST/INSTANCE, or {HERE} for this machine",
        )
    return default


def run(verb: str, pattern: str, instances: Sequence[str], *, lines: int, console: Console) -> Outcome:
    """Run the playbook of a verb.

    Args:
        pattern: of the inventory.
        instances: their names; none means all.
        lines: how much of each log to show.
        console: where people see what is going on.

    Raises:
        UsageError: no host matches the pattern, or no host has such an instance.
        DeployError: Ansible failed before it came to a host, or what it found out about one can't be read.
    """
    variables = {"instance": ",".join(instances), "lines": lines}
    outcome = playbook.run_on(
        pattern, f"playbooks/{verb}.yml", "--extra-vars", json.dumps(variables),
        console=console, narrate=verb not in LOOKING,
    )  # fmt: skip
    if instances and outcome.failures and not any(outcome.rows.values()) and not outcome.unreachable:
        (message, *_) = outcome.failures.values()
        raise UsageError(message, hint="nox -s status shows what is deployed")
    return outcome.must_be_read()


def rows_of(outcome: Outcome) -> list[Row]:
    """The instances of all hosts, each row with its ``host``; a host that has none because it failed has one row."""
    rows: list[Row] = []
    for host in outcome.hosts:
        rows += [{"host": host, **row} for row in outcome.rows.get(host, ())]
        if host in outcome.failures and not outcome.rows.get(host):
            state = UNREACHABLE if host in outcome.unreachable else "failed"
            error = outcome.failures[host]
            rows.append(
                {"host": host, "name": None, "state": state, "changed": False, "checks": [], "error": error,
                 "trouble": error, "remark": None}
            )  # fmt: skip
    return rows
