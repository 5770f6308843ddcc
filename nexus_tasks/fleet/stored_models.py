"""Models that lie on the fleet's hosts: shown, fetched, verified again, removed.

    found = stored_models.run("listed", "gpu-hosts")
    stored_models.text(found, width=80)             # a table a host
    found.failures                                  # hosts that could not be asked, and why

Ansible does it (playbooks/models.yml and model.yml); who uses a model is what the hosts say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from nexus_tasks.fleet import inventory, playbook
from nexus_tasks.fleet.playbook import Outcome
from nexus_tasks.hostlib.server_tables import size
from nexus_tasks.hostlib.terminal_text import all_plain, columns, shortened

MIB = 1 << 20
HEADER = ("MODEL", "QUANTIZATION", "TOOLS", "SIZE", "STATE", "USED BY")
SIZE_COLUMN = 3
LONGEST_NAME, LONGEST_USERS = 34, 40
DAMAGED = ("damaged", "changed", "incomplete")
"""States of models that are not what was verified."""
NOT_THERE = "not there"

Row = dict[str, Any]


@dataclass(frozen=True)
class Disk:
    """A host's file system that models lie on, in bytes."""

    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class HostModels:
    """The models of a host, as module gguf_store describes them, with ``quantization`` and ``tool_calls``."""

    host: str
    rows: tuple[Row, ...]
    disk: Disk


@dataclass(frozen=True)
class Found:
    """The models of hosts, and by host why it has no part in it."""

    hosts: tuple[HostModels, ...]
    failures: Mapping[str, str]

    def damaged(self) -> list[str]:
        """``HOST/MODEL`` of those that are not what was verified."""
        return [f"{host.host}/{row['name']}" for host in self.hosts for row in host.rows if row["state"] in DAMAGED]


def run(
    action: str, pattern: str, names: Sequence[str] = (), *, unused: bool = False, catalogue: bool = False,
    console: Console | None = None,
) -> Found:  # fmt: skip
    """Look after the models of the hosts of a pattern.

    Args:
        action: ``listed``, ``verified`` or ``removed``.
        names: of models; none means all.
        unused: whether those are removed that nothing uses and nobody declares.
        catalogue: whether profiles that a host does not have are listed, too.
        console: where people see what is going on.

    Raises:
        DeployError: it failed on all hosts.
        UsageError: no host matches the pattern.
    """
    variables = {"models_action": action, "models_names": list(names), "models_unused": unused}
    hint = "nox -s models -- list shows what lies on the hosts"
    if action == "listed":
        hint = "nox -s models -- list --all shows the catalogue, too" if names else "mend it and run it again"
    answer, failures = inventory.answer(
        pattern, "playbooks/models.yml", "models_file", variables, console=console, hint=hint
    )
    hosts = [_of_host(host, all_plain(told), catalogue=catalogue) for host, told in sorted(answer.items())]
    return Found(tuple(hosts), failures)


def fetch(pattern: str, names: Sequence[str], *, console: Console | None = None) -> Outcome:
    """Have models on the hosts of a pattern: those of these names, or those that their instances need.

    Raises:
        DeployError: Ansible failed before it came to a host.
        UsageError: no host matches the pattern.
    """
    variables = json.dumps({"fetch_models": ",".join(names)})
    return playbook.run_on(pattern, "playbooks/model.yml", "--extra-vars", variables, console=console)


def text(found: Found, width: int) -> str:
    """The models as a table a host, with what they take of its disk."""
    return "\n\n".join(_table(host, width) for host in found.hosts)


def as_json(found: Found) -> list[dict[str, Any]]:
    """The models for programs: a dict a host."""
    return [
        {"host": host.host, "total_bytes": host.disk.total_bytes, "free_bytes": host.disk.free_bytes,
         "models": list(host.rows)}
        for host in found.hosts
    ]  # fmt: skip


def _of_host(host: str, told: Mapping[str, Any], *, catalogue: bool) -> HostModels:
    profiles, rows = told["catalogue"], [dict(row) for row in told["models"]]
    there = {row["name"] for row in rows}
    if catalogue:
        rows += [
            {"name": name, "state": NOT_THERE, "size_bytes": None, "files": [], "source": None, "elsewhere": False,
             "declared": False, "used_by": []}
            for name in profiles if name not in there
        ]  # fmt: skip
    about = ("quantization", "tool_calls")
    rows = [{**row, **{key: profiles.get(row["name"], {}).get(key) for key in about}} for row in rows]
    return HostModels(host, tuple(rows), Disk(**told["disk"]))


def _table(host: HostModels, width: int) -> str:
    own_mib = sum(row["size_bytes"] or 0 for row in host.rows if not row["elsewhere"]) / MIB
    free, total = size(host.disk.free_bytes / MIB), size(host.disk.total_bytes / MIB)
    unused = [row for row in host.rows if row["size_bytes"] and not row["used_by"] and not row["declared"]]
    unused_mib = sum(row["size_bytes"] for row in unused if not row["elsewhere"]) / MIB
    parts = [f"models {size(own_mib)}", *([f"of which {size(unused_mib)} unused"] if unused_mib else [])]
    title = f"{host.host}: {', '.join(parts)}; {free} of {total} are free"
    if not host.rows:
        return title
    lines = columns([HEADER, *map(_cells, host.rows)], right=(SIZE_COLUMN,))
    return "\n".join([title, *(shortened(line, width) for line in lines)])


def _cells(row: Row) -> tuple[str, ...]:
    tools = {True: "yes", False: "no"}.get(row["tool_calls"], "")
    amount = "" if row["size_bytes"] is None else size(row["size_bytes"] / MIB)
    users = ", ".join(row["used_by"]) or ("declared" if row["declared"] else "")
    return (
        shortened(row["name"], LONGEST_NAME), row["quantization"] or "", tools, amount, row["state"],
        shortened(users, LONGEST_USERS),
    )  # fmt: skip
