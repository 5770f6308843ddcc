"""Admission of servers to a host: whether what is to start there fits what will be free, by their memory plans.

    found = admit([Server("main", (model,), (HostGpu("GPU-…", "NVIDIA L4", 23_034, 23_034),))], 60_000)
    found.refused           {"main": "does not fit: CUDA0 (NVIDIA L4) is short by 3,412 MiB: …"}
    found.plans["main"]     what its proof compares with, and what a trial beside the old server needs

Servers are planned one after the other, as they start: each with what those before it leave of every GPU and of the
host. What runs on and is not replaced is in what is free already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nexus_tasks.core.errors import UsageError
from nexus_tasks.hostlib.argv import values_of
from nexus_tasks.hostlib.model_shape import ModelShape

from .memory import DevicePlan, Gpu, MemoryPlan, plan_memory
from .remedies import Remedy, remedies
from .server_options import ServerOptions, parse_options

HOST = "host"
FIT_MARGIN_MIB = 1024.0  # of each GPU, that --fit leaves free
FIT_CONTEXT = 4096  # tokens of a stream, below which --fit does not go
FIT_CONTEXT_FLAGS = ("-fitc", "--fit-ctx")
ALLOWING = "llama_server_allow_overcommit"
PARTS = (("weights", "weight_buffers_mib"), ("KV", "kv_mib"), ("compute", "compute_mib"))

InWords = Callable[[Sequence[str]], str]
"""Options of llama-server as the inventory has them."""


@dataclass(frozen=True)
class HostGpu:
    """A GPU of the host."""

    key: str
    """UUID, or the index where that is all that is known."""
    name: str
    room_mib: float
    """What is free of it once what is replaced has ended."""
    free_mib: float
    """What is free of it now."""


@dataclass(frozen=True)
class Model:
    """A model that a server loads, with its own options."""

    id: str
    """The name by which a router serves it; empty where it is a server's only one."""
    argv: tuple[str, ...]
    shape: ModelShape
    draft: ModelShape | None = None
    projector: ModelShape | None = None


@dataclass(frozen=True)
class Server:
    """A server that is to start."""

    name: str
    models: tuple[Model, ...]
    gpus: tuple[HostGpu, ...] = ()
    """Those that it sees, in its order; none where it computes on the processor."""
    at_once: int = 1
    """Models that a router holds at a time."""
    may_overcommit: bool = False


@dataclass
class Admission:
    """The verdict on servers, by their names; each text is one line."""

    plans: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By server ``parts``, with ``device``, ``part`` and ``plan_mib``, and ``needs``, MiB by GPU and of the host."""
    fitting: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    unplanned: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Need:
    """Memory that a server needs of one device, and what is there for it."""

    device: str
    key: str
    name: str
    free_mib: float
    plans: tuple[DevicePlan, ...]
    """Those of the models that it holds at a time."""

    @property
    def total_mib(self) -> float:
        return sum(map(_at_start, self.plans))

    @property
    def lacks_mib(self) -> float:
        return max(self.total_mib - self.free_mib, 0.0)

    def of(self, attribute: str) -> float:
        return sum(float(getattr(plan, attribute)) for plan in self.plans)


def _at_start(plan: DevicePlan) -> float:
    """MiB that a server takes as it starts: what prompts may take later is for the host to swap, and is capped."""
    return plan.weights_mib + plan.kv_mib + plan.compute_mib + plan.overhead_mib


def admit(servers: Sequence[Server], host_free_mib: float | None, in_words: InWords = " ".join) -> Admission:
    """The verdict on the servers that are to start on a host.

    Args:
        host_free_mib: of its memory, once what is replaced has ended; None where it is unknown.
        in_words: options of llama-server, as the reader would write them.
    """
    found = Admission()
    taken: dict[str, float] = {}
    before: list[str] = []
    for server in servers:
        try:
            planned = _Planned(server, taken, host_free_mib)
            text = planned.does_not_fit(before, in_words)
            adjusted = planned.adjusted() if text else ""
        except UsageError as error:
            found.unplanned[server.name] = f"{error.message}; {error.hint}"
            continue
        found.plans[server.name] = planned.as_json()
        if not text:
            found.fitting[server.name] = planned.fits()
            if warning := "; ".join(planned.warnings()):
                found.warnings[server.name] = warning
        elif server.may_overcommit:
            found.warnings[server.name] = f"{text}; it is deployed all the same, as {ALLOWING} says"
        elif adjusted:
            found.warnings[server.name] = f"{text}; {adjusted}"
        else:
            found.refused[server.name] = f"{text}, or deploy it all the same: {ALLOWING}: true"
        for need in planned.needs:
            taken[need.key] = taken.get(need.key, 0.0) + need.total_mib
        before.append(server.name)
    return found


class _Planned:
    """A server with the plans of its models, by what is left of the host."""

    def __init__(self, server: Server, taken: Mapping[str, float], host_free_mib: float | None) -> None:
        self.server = server
        self._host_free_mib = None if host_free_mib is None else host_free_mib - taken.get(HOST, 0.0)
        self._room = [max(gpu.room_mib - taken.get(gpu.key, 0.0), 0.0) for gpu in server.gpus]
        self.plans = [self.plan(model, model.argv) for model in server.models]
        self.needs = self._needs(self.plans)

    def plan(self, model: Model, words: Sequence[str], room: Sequence[float] | None = None) -> MemoryPlan:
        """The plan of one model. The host's verdict is about what is taken at the start."""
        options, _ = parse_options(words)
        room = self._room if room is None else room
        gpus = [Gpu(f"CUDA{number}", mib) for number, mib in enumerate(room)]
        made = plan_memory(model.shape, options, gpus, draft=model.draft, projector=model.projector)
        own = made.devices[-1]
        if self._host_free_mib is not None:
            later = own.prompt_cache_mib + own.checkpoints_mib
            own = replace(own, free_mib=self._host_free_mib + later)
        return replace(made, devices=(*made.devices[:-1], own))

    def _needs(self, plans: Sequence[MemoryPlan]) -> list[_Need]:
        """Needs of each GPU and of the host: of a router those of the largest models that it holds at a time."""
        needs = []
        for number, gpu in enumerate(self.server.gpus):
            found = [device for plan in plans for device in plan.devices if device.name == f"CUDA{number}"]
            largest = sorted(found, key=_at_start, reverse=True)[: self.server.at_once]
            if largest:
                needs.append(_Need(f"CUDA{number}", gpu.key, gpu.name, self._room[number], tuple(largest)))
        hosts = sorted((plan.devices[-1] for plan in plans), key=_at_start, reverse=True)[: self.server.at_once]
        free = float("inf") if self._host_free_mib is None else self._host_free_mib
        return [*needs, _Need(HOST, HOST, "", free, tuple(hosts))]

    # ---- What is handed on

    def as_json(self) -> dict[str, Any]:
        """The plan for the host: parts for the proof, and what a trial needs, beside which the old server stays."""
        parts = [
            part for model, plan in zip(self.server.models, self.plans, strict=True) for part in _parts(model, plan)
        ]
        return {"parts": parts, "needs": self._beside()}

    def _beside(self) -> dict[str, Any]:
        """MiB by GPU and of the host, by what is free now: layers are split by it."""
        now = [gpu.free_mib for gpu in self.server.gpus]
        plans = self.plans
        if len(now) > 1 and not self.server.models[0].id:
            try:
                plans = [self.plan(model, model.argv, now) for model in self.server.models]
            except UsageError:  # as it is
                plans = self.plans
        needs = self._needs(plans)
        gpus = {need.key: round(need.total_mib, 2) for need in needs[:-1]}
        return {"gpus": gpus, "host": round(needs[-1].total_mib, 2)}

    # ---- What is said

    def fits(self) -> str:
        """Memory that it takes, of what is there."""
        known = [need for need in self.needs if need.free_mib != float("inf")]
        taken = (f"{_mib(need.total_mib)} of {_mib(need.free_mib)} MiB of {_device(need)}" for need in known)
        return f"fits: {', '.join(taken)}"

    def does_not_fit(self, before: Sequence[str], in_words: InWords) -> str:
        """Line about what is short by how much, and what would make it fit; empty where nothing is."""
        short = [need for need in self.needs if need.lacks_mib > 0]
        if not short:
            return ""
        beside = f" beside {' and '.join(before)}" if before else ""
        lines = [_lacking(need) for need in short]
        would = [_remedy_text(remedy, in_words) for remedy in self._remedies()]
        way_out = f"it would with {', or '.join(would)}" if would else "no option of its own alone makes it fit"
        return f"does not fit{beside}: {', and '.join(lines)}; {way_out}"

    def _remedies(self) -> Iterator[Remedy]:
        """Changes that make a server of one model fit. A router's models are for its owner to choose among."""
        if self.server.models[0].id:
            return
        model, plan = self.server.models[0], self.plans[0]
        yield from remedies(plan, model.argv, lambda words: self.plan(model, words))

    def adjusted(self) -> str:
        """Line about --fit, where that shrinks a context that nobody declared until it fits; else empty."""
        sizes = []
        for model in self.server.models:
            options, _ = parse_options(model.argv)
            if not options.fit or options.ctx_size:
                return ""
            streams = 1 if options.kv_unified else options.parallel
            given = next(iter(values_of(model.argv, FIT_CONTEXT_FLAGS)), "")
            least = (int(given) if given.isdecimal() else FIT_CONTEXT) * streams
            sizes.append(self.plan(model, [*model.argv, "-c", str(least)]))
        if any(need.lacks_mib > 0 for need in self._needs(sizes)):
            return ""
        return "since no ctx_size is declared, --fit will shrink its context to what fits"

    def warnings(self) -> Iterator[str]:
        """Lines about what fits and will not stay as declared: --fit keeps more free than the server needs."""
        for need in self.needs[:-1]:
            left = need.free_mib - need.total_mib + need.of("overhead_mib")
            options = [parse_options(model.argv)[0] for model in self.server.models]
            if left < FIT_MARGIN_MIB and any(map(_moves_layers, options)):
                yield (
                    f"--fit keeps {_mib(FIT_MARGIN_MIB)} MiB of {_device(need)} free, where {_mib(left)} would be, and"
                    " may move layers to the host: set n_gpu_layers, or fit: off"
                )


def _moves_layers(options: ServerOptions) -> bool:
    """True where --fit may move layers: nobody said where they go."""
    return options.fit and options.n_gpu_layers is None and not options.tensor_split and not options.tensor_overrides


def _parts(model: Model, plan: MemoryPlan) -> Iterator[dict[str, Any]]:
    """The buffers that the server's log will name."""
    named = {"model": model.id} if model.id else {}
    for device in plan.devices:
        for part, attribute in PARTS:
            yield {**named, "device": device.name, "part": part, "plan_mib": round(getattr(device, attribute), 2)}


def _mib(value: float) -> str:
    return f"{value:,.0f}"


def _device(need: _Need) -> str:
    if need.device == HOST:
        return "the host's memory"
    return f"{need.device} ({need.name})" if need.name else need.device


def _lacking(need: _Need) -> str:
    what = [("weights", "weights_mib"), ("caches", "kv_mib"), ("compute", "compute_mib"), ("other", "overhead_mib")]
    parts = ", ".join(f"{name} {_mib(need.of(attribute))}" for name, attribute in what)
    return (
        f"{_device(need)} is short by {_mib(max(need.lacks_mib, 1))} MiB: {_mib(need.total_mib)} are needed ({parts}), "
        f"{_mib(need.free_mib)} are free"
    )


def _remedy_text(remedy: Remedy, in_words: InWords) -> str:
    return in_words(remedy.options) if remedy.options else remedy.what
