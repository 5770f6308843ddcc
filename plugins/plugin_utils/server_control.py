"""The deployed instances that an action of the playbooks is about.

    chosen(rows, action, names)               their names on one host
    nowhere(hosts, hostvars, action, names)   why no host has any of them; empty where one has

An action is status, logs, start, stop, restart or rollback. ``rows`` are those of a status, by module
llama_server_control.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..module_utils.hostlib.server_rows import Row, named


def chosen(rows: Iterable[Row], action: str, names: Sequence[str] = ()) -> list[str]:
    """The names of the deployed instances that an action is about: those given, or all to which it can be done.

    Without names, what somebody stopped stays stopped through a restart or rollback of the rest.
    """
    rows = list(rows)
    if names:
        return [str(row["name"]) for row in rows if row["name"] in names]
    if needs := {"start": "generation", "restart": "generation", "rollback": "previous"}.get(action):
        rows = [row for row in rows if row.get(needs) and (action == "start" or row.get("phase") != "stopped")]
    return [str(row["name"]) for row in rows]


def nowhere(hosts: Iterable[str], variables: Mapping[str, Any], action: str, names: Sequence[str] = ()) -> str:
    """The reason for which an action is about nothing; empty where it is about something.

    That is names that no host has, or nothing to go back to.

    Args:
        hosts: those of the play.
        variables: of each host, with ``__llama_server_looked``, the result of a status, where it was reached.
    """
    rows = [
        {**row, "host": host}
        for host in hosts
        for row in (variables[host].get("__llama_server_looked") or {}).get("instances") or ()
    ]
    there = {row["name"] for row in rows}
    if missing := [name for name in names if name not in there]:
        deployed = ", ".join(sorted(map(named, rows))) or "none"
        return f"no instance {', '.join(missing)} is deployed on these hosts; those that are: {deployed}"
    if action == "rollback" and not chosen(rows, action, names):
        return "no instance on these hosts has an earlier generation to go back to"
    return ""
