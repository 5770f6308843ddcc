"""The fleet's memory as it was planned, and as deployments measured it.

    state = capacity.read(Path("results"))
    capacity.sentences(state)       ["The plan of 3 hosts has 5 models: 4 fit, 1 does not fit.", ...]

Everything comes from records of kinds ``plan`` and ``deployment``. Of each host the newest plan counts.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from nexus_tasks.core.text import listing, plural
from nexus_tasks.fleet import deployments
from nexus_tasks.hostlib.buffers import is_host
from nexus_tasks.model_store.memory import DOES_NOT_FIT, FITS, HOST, IS_TIGHT
from nexus_tasks.records import store
from nexus_tasks.records.deployment_rows import MemoryPart, ProofRow
from nexus_tasks.records.plan_rows import CurvePoint, CurveRow, MachineRow, ModelRow, PlannedDevice, PlanRow, ServerRow
from nexus_tasks.records.store import PlanRecord

PARTS = ("weights", "kv", "compute", "other")
BUFFERS = {"weights": "model", "kv": "kv", "compute": "compute"}
"""Parts of a plan that a server's log tells, and what records of deployments call them."""
NAMED = 3  # so many servers that do not fit are named in a sentence


@dataclass(frozen=True)
class Server:
    """A model that an instance serves, with its plan where there is one."""

    row: ServerRow
    plan: PlanRow | None
    model: ModelRow | None

    @property
    def name(self) -> str:
        """HOST/INSTANCE."""
        return f"{self.row.host}/{self.row.instance}"

    def devices(self) -> Iterator[tuple[int | None, PlannedDevice]]:
        """Each device of the plan with its number among the host's GPUs, None of the host itself."""
        if self.plan is not None:
            *gpus, own = self.plan.devices
            yield from zip(self.row.gpus, gpus, strict=False)
            yield None, own


@dataclass(frozen=True)
class Host:
    """A host as its newest plan has it."""

    machine: MachineRow
    servers: tuple[Server, ...]
    planned_at: datetime

    def taken(self, number: int | None) -> dict[str, float]:
        """MiB by part that all servers take of a GPU, or of the host's own memory (None)."""
        total = dict.fromkeys(PARTS, 0.0)
        for server in self.servers:
            for of, device in server.devices():
                if of == number:
                    for part, mib in parts(device).items():
                        total[part] += mib
        return total

    def sizes(self) -> list[tuple[int | None, float]]:
        """Number and MiB of each GPU, and of the host's own memory (None) where that is known."""
        own = [] if self.machine.memory_mib is None else [(None, self.machine.memory_mib)]
        return [*enumerate(self.machine.gpus_mib), *own]

    def kind(self) -> tuple[object, ...]:
        """A value that is equal for hosts that are alike."""
        return (
            tuple(self.machine.gpus_mib), self.machine.memory_mib,
            tuple((one.row.instance, one.row.model, one.row.verdict, str(one.plan)) for one in self.servers),
        )  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """A part of a server's memory on a device, planned and as its log told it."""

    server: str
    device: str
    part: str
    plan_mib: float
    measured_mib: float

    @property
    def off(self) -> float | None:
        """The measured one against the plan, as a share; None where nothing was planned."""
        return (self.measured_mib - self.plan_mib) / self.plan_mib if self.plan_mib else None


@dataclass(frozen=True)
class Capacity:
    """All of it; ``curves`` and ``models`` are those of any plan, each once."""

    hosts: tuple[Host, ...]
    models: tuple[ModelRow, ...]
    curves: tuple[tuple[ModelRow, CurveRow], ...]
    measured: tuple[Measured, ...]
    records: int
    until: datetime | None
    unread: tuple[str, ...]

    @property
    def servers(self) -> list[Server]:
        """Those of all hosts."""
        return [server for host in self.hosts for server in host.servers]

    def gpu_sizes(self) -> list[float]:
        """The sizes of the fleet's GPUs in MiB, each once, the smallest first."""
        return sorted({size for host in self.hosts for size in host.machine.gpus_mib})


def parts(device: PlannedDevice) -> dict[str, float]:
    """MiB of a device by part; what is in no buffer is ``other``."""
    known = {"weights": device.weights_mib, "kv": device.kv_mib, "compute": device.compute_mib}
    return {**known, "other": max(device.total_mib - sum(known.values()), 0.0)}


def read(results: Path) -> Capacity:
    """The memory that the records of a results folder tell of.

    Raises RecordError where there is no plan, or the folder can't be listed.
    """
    unread: list[str] = []
    found = list(store.readable(store.paths("plan", results), lambda error: unread.append(error.message), "plan"))
    hosts: dict[str, Host] = {}
    models: dict[tuple[str, str], ModelRow] = {}
    curves: dict[tuple[str, ...], tuple[ModelRow, CurveRow]] = {}
    for record in found:  # the newer ones replace the older
        hosts |= {host.machine.host: host for host in _hosts(record)}
        by_number = {model.number: model for model in record.models}
        models |= {(model.file, model.name): model for model in record.models}
        for curve in record.curves:
            model = by_number.get(curve.model)
            if model is not None and curve.points:
                curves[model.file, *curve.options] = model, curve
    return Capacity(
        tuple(hosts[name] for name in sorted(hosts)),
        tuple(sorted(models.values(), key=lambda model: (model.name, model.size_mib))),
        tuple(curves.values()),
        tuple(_measured(results, hosts)),
        len(found),
        max((record.started_at for record in found), default=None),
        tuple(unread),
    )


def _hosts(record: PlanRecord) -> Iterator[Host]:
    plans = {plan.number: plan for plan in record.plans}
    models = {model.number: model for model in record.models}
    for machine in record.hosts:
        servers = []
        for row in record.servers:
            if row.host == machine.host:
                plan = plans.get(row.plan) if row.plan is not None else None
                servers.append(Server(row, plan, models.get(plan.model) if plan else None))
        yield Host(machine, tuple(servers), record.started_at)


def _measured(results: Path, hosts: dict[str, Host]) -> Iterator[Measured]:
    """The plan of each server beside what its log said when it was last proven.

    It is the plan that it was deployed with, of one without such a plan the newest of its host.
    """
    if not store.paths("deployment", results, required=False):
        return
    planned = {server.name: server for host in hosts.values() for server in host.servers}
    for instance in deployments.read(results).instances:
        server, proof = planned.get(instance.label), instance.serving
        if proof.memory:
            yield from _deployed(instance.label, proof.memory)
        elif server is not None and proof.buffers_mib:
            yield from _compared(server, proof)


def _deployed(label: str, memory: Sequence[MemoryPart]) -> Iterator[Measured]:
    for one in memory:
        if one.plan_mib is not None and one.measured_mib is not None and (one.plan_mib or one.measured_mib):
            name = f"{label}:{one.model}" if one.model else label
            yield Measured(name, one.device, one.part.lower(), one.plan_mib, one.measured_mib)


def _compared(server: Server, proof: ProofRow) -> Iterator[Measured]:
    logged: defaultdict[tuple[str, str], float] = defaultdict(float)
    for where, sizes in (proof.buffers_mib or {}).items():
        for buffer, size in sizes.items():
            logged[HOST if is_host(where) else where, buffer] += size or 0.0
    for number, device in server.devices():
        name = HOST if number is None else device.name
        for part, buffer in BUFFERS.items():
            mib = parts(device)[part]
            if number is None and part == "weights":
                mib = device.weight_buffers_mib or device.mapped_mib or mib  # as the log tells them
            if mib or logged[name, buffer]:
                yield Measured(server.name, name, part, mib, logged[name, buffer])


# ---- In sentences


def sentences(state: Capacity) -> list[str]:
    """The three that the page, and the index, open with."""
    return [_extent(state), _trouble(state), _proof(state)]


def tone(state: Capacity) -> str:
    """The tone of the whole: bad where something does not fit, muted where something is not known."""
    verdicts = {server.row.verdict for server in state.servers}
    if DOES_NOT_FIT in verdicts:
        return "bad"
    return "good" if verdicts and verdicts <= {FITS, IS_TIGHT} else "muted"


def _extent(state: Capacity) -> str:
    if not state.hosts:
        return f"{plural(len(state.models), 'model')} were planned, and no host yet."
    counts = Counter(server.row.verdict for server in state.servers)
    words = {FITS: ("fits", "fit"), IS_TIGHT: ("is tight", "are tight"), DOES_NOT_FIT: ("does not fit", "do not fit")}
    told = [f"{counts[one]:,} {said[counts[one] != 1]}" for one, said in words.items() if counts[one]]
    rest = len(state.servers) - sum(counts[verdict] for verdict in words)
    told += [f"{rest:,} can't be told"] if rest else []
    what = f"The plan of {plural(len(state.hosts), 'host')} has {plural(len(state.servers), 'model')}"
    return f"{what}: {', '.join(told)}." if told else f"{what}."


def _trouble(state: Capacity) -> str:
    wrong = [server.name for server in state.servers if server.row.verdict == DOES_NOT_FIT]
    if wrong:
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        return f"What does not fit: {', '.join(wrong[:NAMED])}{more}."
    unknown = [server.name for server in state.servers if server.row.verdict not in (FITS, IS_TIGHT)]
    if unknown:
        return (
            f"Not known of {listing(unknown[:NAMED])}{f' and {len(unknown) - NAMED} more' if unknown[NAMED:] else ''}."
        )
    fullest = max(_shares(state), default=None)
    return f"The fullest is {fullest[1]}, to {100 * fullest[0]:.0f} %." if fullest else "No memory is known."


def _shares(state: Capacity) -> Iterator[tuple[float, str]]:
    """Of each GPU, and of each host's own memory, the share that is taken, and its name."""
    for host in state.hosts:
        for number, size in host.sizes():
            if size > 0 and host.servers:
                what = "the memory" if number is None else f"GPU {number}"
                yield sum(host.taken(number).values()) / size, f"{what} of {host.machine.host}"


def _proof(state: Capacity) -> str:
    if not state.measured:
        return "No deployment has measured any of it yet."
    off = [abs(one.off) for one in state.measured if one.off is not None]
    worst = max(state.measured, key=lambda one: abs(one.measured_mib - one.plan_mib))
    servers = len({one.server for one in state.measured})
    parts_ = f"{plural(len(state.measured), 'buffer')} of {plural(servers, 'server')}"
    median = f"{100 * statistics.median(off):.1f} %" if off else "nothing"
    return (
        f"Deployments measured {parts_}: off by {median} at the median, the most {worst.part} of "
        f"{worst.server} on {worst.device}, {worst.measured_mib:,.0f} MiB instead of {worst.plan_mib:,.0f}."
    )


def largest_context(curve: CurveRow, free_mib: float, overhead_mib: float) -> int | None:
    """The largest context of a curve that a GPU has room for, between its points by a straight line; None for none.

    Args:
        overhead_mib: what the driver takes beside the buffers.
    """
    room, largest = free_mib - overhead_mib, None
    for before, point in zip([None, *curve.points], curve.points, strict=False):
        total = _total(point)
        if total <= room:
            largest = point.n_ctx
        elif before is not None and _total(before) <= room:
            share = (room - _total(before)) / (total - _total(before))
            return int(before.n_ctx + share * (point.n_ctx - before.n_ctx))
    return largest


def _total(point: CurvePoint) -> float:
    return point.weights_mib + point.kv_mib + point.compute_mib
