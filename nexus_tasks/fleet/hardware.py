"""Memory of hosts and of their GPUs: as it is declared, as they said when they were last asked, or as they say now.

    found = of_hosts(described, Path("results"), ask_again=False)
    found.known["rig-1"].gpus_mib, found.known["rig-1"].source
    found.problems["rig-2"]                                 why its memory is not known

What hosts said stands in the records of plans, the newest of which that has a host counts.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nexus_tasks.core.errors import DeployError
from nexus_tasks.fleet import inventory
from nexus_tasks.hostlib.terminal_text import shortened
from nexus_tasks.records import store

DECLARED, ASKED, REMEMBERED, NOT_KNOWN = "declared", "asked", "remembered", "unknown"
OLDEST_LOOKED_AT = 200  # records of plans
SHOWN = 40  # characters of a declaration in an error


@dataclass(frozen=True)
class Hardware:
    """Memory of a host, in MiB, and where that is known from; ``asked_at`` is when it said so, in UTC."""

    gpus_mib: tuple[float, ...]
    memory_mib: float | None
    source: str
    asked_at: str | None = None


@dataclass(frozen=True)
class Found:
    """Memory of hosts by name, and why it is not known of the others: ``malformed`` where it is declared wrongly."""

    known: Mapping[str, Hardware]
    problems: Mapping[str, str] = field(default_factory=dict)
    malformed: Mapping[str, str] = field(default_factory=dict)


def of_pattern(pattern: str | None, results: Path) -> Found:
    """The memory of the hosts of a pattern, by default of the fleet.

    Raises DeployError and UsageError as :func:`nexus_tasks.fleet.inventory.answer` does.
    """
    chosen = pattern or inventory.default_pattern()
    described, lost = inventory.answer(chosen, "playbooks/planned.yml", "planned_file")
    found = of_hosts(described, results, ask_again=False)
    return replace(found, problems={**lost, **found.problems})


def of_hosts(described: Sequence[Mapping[str, Any]], results: Path, *, ask_again: bool) -> Found:
    """The memory of hosts as playbooks/planned.yml describes them.

    Args:
        described: each with ``host``, ``gpu_memory`` and ``host_memory``, None where they are not declared.
        results: where records are.
        ask_again: whether hosts are asked whatever they said before.

    Of a host whose declaration is malformed nothing is known, and nothing is asked.
    """
    malformed = {host["host"]: "; ".join(wrong) for host in described if (wrong := list(_malformed(host)))}
    described = [host for host in described if host["host"] not in malformed]
    declared = {host["host"]: _declared(host) for host in described if host["gpu_memory"] is not None}
    others = [host["host"] for host in described if host["host"] not in declared]
    known = {} if ask_again else _remembered(others, results)
    unknown = [name for name in others if name not in known]
    asked, problems = _ask(unknown) if unknown else ({}, {})
    memory = {host["host"]: _number(host["host_memory"]) for host in described}
    found = {**declared, **known, **asked}
    return Found(
        {name: one if memory[name] is None else replace(one, memory_mib=memory[name]) for name, one in found.items()},
        {**problems, **malformed},
        malformed,
    )


def _malformed(host: Mapping[str, Any]) -> Iterator[str]:
    """Mistakes in the memory that is declared of a host, one line each."""
    sizes = [] if host["gpu_memory"] is None else _as_list(host["gpu_memory"])
    for cell in sizes:
        if _number(cell) is None:
            yield f"llama_server_gpu_memory has {_shown(cell)}: write the MiB of each GPU, as in [24576, 16384]"
    if host["host_memory"] is not None and _number(host["host_memory"]) is None:
        yield f"llama_server_host_memory is {_shown(host['host_memory'])}: write its MiB, as in 65536"


def _shown(value: Any) -> str:
    return shortened(repr(value), SHOWN)


def _declared(host: Mapping[str, Any]) -> Hardware:
    return Hardware(_sizes(_as_list(host["gpu_memory"])), None, DECLARED)


def _as_list(value: Any) -> list[Any]:
    """A value as Ansible takes one of type list: a number is its only item, and a text has commas between items."""
    if isinstance(value, list):
        return value
    return value.split(",") if isinstance(value, str) else [value]


def _sizes(cells: Iterable[Any]) -> tuple[float, ...]:
    """MiB of GPUs; of one that tells none (shared with the host) there is no number to plan with."""
    return tuple(size for cell in cells if (size := _number(cell)) is not None)


def _number(cell: Any) -> float | None:
    return float(cell) if re.fullmatch(r"\d{1,9}(\.\d+)?", str(cell).strip()) else None


def _remembered(hosts: Collection[str], results: Path) -> dict[str, Hardware]:
    """The answers of hosts when they were last asked."""
    found: dict[str, Hardware] = {}
    newest_first = reversed(store.paths("plan", results, required=False)[-OLDEST_LOOKED_AT:]) if hosts else ()
    for record in store.readable(newest_first, lambda error: None, "plan"):
        for row in record.hosts:
            if row.host in hosts and row.host not in found and row.source in (ASKED, REMEMBERED):
                found[row.host] = Hardware(tuple(row.gpus_mib), row.memory_mib, REMEMBERED, row.asked_at)
        if len(found) == len(hosts):
            break
    return found


def _ask(hosts: Sequence[str]) -> tuple[dict[str, Hardware], dict[str, str]]:
    """The answers of hosts now, and why others give none."""
    sys.stderr.write(f"asking {', '.join(hosts[:4])}{', …' if len(hosts) > 4 else ''} for the memory of their GPUs\n")
    try:
        told, failures = inventory.answer(",".join(hosts), "playbooks/hardware.yml", "hardware_file")
    except DeployError as error:
        told, failures = [], dict.fromkeys(hosts, error.message.splitlines()[0])
    now = store.utc_now()
    found = {one["host"]: Hardware(_sizes(one["gpu_memory"]), _number(one["host_memory"]), ASKED, now) for one in told}
    hint = "declare llama_server_gpu_memory, or mend the way to it"
    return found, {name: f"its memory is not known, {why}: {hint}" for name, why in failures.items()}
