"""The memory that what the inventory declares will take, before any of it is there.

    fleet = declared_models("gpu-hosts", Path("results"))
    rows = plan_all(fleet.models, open_model)
    rows[0].plan.verdict, rows[0].verdict       that of the model alone, and with the others of its host

A model is read once, and a plan made once for all hosts that are alike.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from nexus_tasks.core.errors import UsageError
from nexus_tasks.core.text import MISSING, listing, plural
from nexus_tasks.fleet import hardware, inventory
from nexus_tasks.fleet.hardware import Hardware
from nexus_tasks.hostlib.model_shape import ModelShape
from nexus_tasks.model_store import plan_text
from nexus_tasks.model_store.memory import (
    DOES_NOT_FIT,
    FITS,
    IS_TIGHT,
    UNKNOWN,
    Gpu,
    MemoryPlan,
    plan_memory,
    verdict_of,
)
from nexus_tasks.model_store.server_options import parse_options

OpenModel = Callable[[str, str], ModelShape]
"""A model by its profile's name, and the profiles as JSON."""
WORSE = (FITS, IS_TIGHT, DOES_NOT_FIT)  # one after the other


@dataclass(frozen=True)
class Declared:
    """A model that an instance of a host serves."""

    host: str
    instance: str
    model: str
    argv: tuple[str, ...]
    profiles: str
    """Those that the command line names, as JSON."""
    gpus: tuple[tuple[int, float], ...]
    """Number and MiB of each that the instance may use."""
    memory_mib: float | None = None
    """The host's own; None where it is not known."""
    problem: str = ""
    """Why there is nothing to plan on: the host's memory is declared wrongly, or a GPU is not there."""

    @property
    def server(self) -> str:
        """HOST/INSTANCE."""
        return f"{self.host}/{self.instance}"


@dataclass(frozen=True)
class Row:
    """A model and its plan, or why there is none."""

    declared: Declared
    plan: MemoryPlan | None
    problem: str = ""
    verdict: str = UNKNOWN
    """With all else that the host serves."""


@dataclass(frozen=True)
class Fleet:
    """Models and memory of the hosts of a pattern; ``lost`` says by host what is wrong there, or not known of it."""

    models: Sequence[Declared]
    hardware: Mapping[str, Hardware]
    lost: Mapping[str, str]


def declared_models(pattern: str, results: Path, *, ask_again: bool = False) -> Fleet:
    """Models that the hosts of a pattern declare, on the memory that those have.

    Args:
        results: where records are: what hosts said of their memory is in those of plans.
        ask_again: whether hosts are asked for their memory whatever they said before.

    Raises DeployError and UsageError as :func:`nexus_tasks.fleet.inventory.answer` does.
    """
    hosts, lost = inventory.answer(pattern or inventory.default_pattern(), "playbooks/planned.yml", "planned_file")
    found = hardware.of_hosts(hosts, results, ask_again=ask_again)
    models: list[Declared] = []
    wrong: dict[str, str] = {}
    for host in hosts:
        name = host["host"]
        own = list(_of_host(host, found.known.get(name), found.malformed.get(name, "")))
        models += own
        lines = [found.problems.get(name, ""), *host["declared"]["problems"], *(one.problem for one in own)]
        wrong[name] = "; ".join(dict.fromkeys(filter(None, lines)))
    return Fleet(models, found.known, {**{name: why for name, why in wrong.items() if why}, **lost})


def _of_host(host: Mapping[str, Any], known: Hardware | None, malformed: str) -> Iterator[Declared]:
    for one in host["declared"]["models"]:
        profiles = _needed_profiles(host["declared"]["profiles"], [one["model"], *one["argv"]])
        gpus = dict(enumerate(known.gpus_mib)) if known else {}
        chosen = _numbers(one["gpus"])
        missing = [number for number in chosen if number not in gpus] if known else []
        yield Declared(
            host["host"], one["instance"], one["model"], tuple(one["argv"]), profiles,
            tuple((number, gpus[number]) for number in chosen or gpus if number in gpus),
            known.memory_mib if known else None,
            _missing(one["instance"].partition(":")[0], missing, gpus) if missing else malformed,
        )  # fmt: skip


def _needed_profiles(profiles: Mapping[str, Any], words: Sequence[str]) -> str:
    """The profiles that a command line names: the same text for the same models, whatever else a host serves."""
    return json.dumps({name: profiles[name] for name in sorted(set(words) & set(profiles))}, sort_keys=True)


def _numbers(chosen: Sequence[Any] | None) -> list[int]:
    """The numbers of the GPUs that an instance names; none, which is all of them, where one is named by its UUID."""
    names = list(dict.fromkeys(map(str, chosen or ())))
    return [int(name) for name in names] if all(name.isdecimal() for name in names) else []


def _missing(instance: str, missing: Sequence[int], gpus: Mapping[int, float]) -> str:
    named, there = listing(list(map(str, missing))), plural(len(gpus), "GPU")
    return (
        f"instance {instance}: gpus names {named}, and the host has {there}, counted from 0: correct gpus, or "
        "llama_server_gpu_memory"
    )


# ---- Plans


def plan_all(declared: Sequence[Declared], open_model: OpenModel) -> list[Row]:
    """Plan each model; a host's verdict is about all that it serves together."""
    made: dict[tuple[object, ...], tuple[MemoryPlan | None, str]] = {}
    rows = []
    for one in declared:
        key = (one.model, one.argv, one.profiles, one.gpus, one.memory_mib, one.problem)
        if key not in made:
            made[key] = _plan(one, open_model)
        rows.append(Row(one, *made[key]))
    by_host = defaultdict(list)
    for row in rows:
        by_host[row.declared.host].append(row)
    return [replace(row, verdict=_together(row, by_host[row.declared.host])) for row in rows]


def _plan(one: Declared, open_model: OpenModel) -> tuple[MemoryPlan | None, str]:
    if one.problem:
        return None, one.problem
    try:
        options, _ = parse_options(one.argv)
        draft = open_model(options.model_draft, one.profiles) if options.model_draft else None
        projector = open_model(options.mmproj, one.profiles) if options.mmproj else None
        gpus = [Gpu(f"CUDA{number}", mib) for number, (_, mib) in enumerate(one.gpus)]
        shape = open_model(one.model, one.profiles)
        made = plan_memory(shape, options, gpus, host_free_mib=one.memory_mib, draft=draft, projector=projector)
        return made, ""
    except UsageError as error:
        return None, error.message


def _together(row: Row, others: Sequence[Row]) -> str:
    """The verdict of a model's fullest device with what every model of the host takes of it."""
    one = row.declared
    if row.plan is None or not (one.gpus or one.memory_mib):
        return UNKNOWN
    taken: dict[int, float] = defaultdict(float)
    for other in others:
        for number, mib in needed(other):
            taken[number] += mib
    verdicts = [verdict_of(taken[number], mib) for number, mib in one.gpus]
    if one.memory_mib is not None:
        in_ram = sum(other.plan.devices[-1].total_mib for other in others if other.plan is not None)
        verdicts.append(verdict_of(in_ram, one.memory_mib))
    return max(verdicts, key=WORSE.index)


def needed(row: Row) -> list[tuple[int, float]]:
    """Number of each GPU of the host that the model is on, and the MiB that it takes of it."""
    if row.plan is None:
        return []
    by_name = {device.name: device.total_mib for device in row.plan.devices}
    numbers = [number for number, _ in row.declared.gpus]
    return [(number, by_name.get(f"CUDA{place}", 0.0)) for place, number in enumerate(numbers)]


# ---- What is shown


def table(rows: Sequence[Row]) -> Table:
    """One row a model."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    made.add_column("server", overflow="fold")
    made.add_column("model", overflow="fold")
    for column in ("tokens", "MiB of GPUs", "there"):
        made.add_column(column, justify="right", no_wrap=True)
    made.add_column("", no_wrap=True)
    for row in rows:
        one, plan = row.declared, row.plan
        tokens = MISSING if plan is None else f"{plan.context.n_ctx:,}"
        taken, there = _figures([mib for _, mib in needed(row)]), _figures([mib for _, mib in one.gpus])
        made.add_row(one.server, one.model, tokens, taken, there, row.verdict)
    return made


def _figures(values: Sequence[float]) -> str:
    return " + ".join(f"{value:,.0f}" for value in values) or MISSING


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as docs/memory.md describes them."""
    return [
        {
            "host": row.declared.host, "instance": row.declared.instance, "model": row.declared.model,
            "verdict": row.verdict, "problem": row.problem or None,
            "gpus_mib": [mib for _, mib in row.declared.gpus], "host_memory_mib": row.declared.memory_mib,
            "plan": None if row.plan is None else plan_text.as_json(row.plan, [], []),
        }
        for row in rows
    ]  # fmt: skip
