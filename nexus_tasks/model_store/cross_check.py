"""The plan by llama.cpp's own tool, held against that of the rules.

    checked = cross_check(asked, answer)
    checked.plan, checked.analytic, checked.differences

The tool (llama-fit-params) knows less than a server has: no unified cache, no layers of multi-token prediction, no
projector. What the rules say of those is added, where they cover the model. Its compute buffers are those of logits for
every token of a batch, more than a server takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nexus_tasks.core.errors import UsageError
from nexus_tasks.hostlib.fit_params import Device

from .architectures.table import NotCovered
from .context import context_of
from .memory import GPU_OVERHEAD_MIB, HOST, HOST_OVERHEAD_MIB, MIB, DevicePlan, Gpu, MemoryPlan, plan_memory
from .placement import mapped_bytes, place
from .planning import Planning
from .server_options import ServerOptions, parse_options

EXACT_MIB = 1.0  # the tool's figures of a model are rounded down to whole MiB
FIGURES = {"weights": "weights_mib", "KV": "kv_mib"}


@dataclass(frozen=True)
class Answer:
    """Figures of llama.cpp of a model, and of its draft model where there is one, and the devices there."""

    models: tuple[tuple[Device, ...], ...]
    gpus_free_mib: tuple[float, ...]
    """Of the GPUs there, in their order; those that were given stand for them."""
    host_free_mib: float | None


@dataclass(frozen=True)
class Checked:
    """A plan of llama.cpp's figures, and what the rules say."""

    asked: Planning
    """With the devices that are there."""
    plan: MemoryPlan
    analytic: MemoryPlan | None
    """None where the rules don't cover the model."""
    differences: tuple[str, ...]
    """Of weights and KV, each in a line."""


def tool_words(options: ServerOptions, gpus: Sequence[Gpu]) -> list[str]:
    """The options of a server as llama-fit-params takes them.

    Args:
        gpus: those that were given; the layers are split by their memory, whatever the tool's own GPUs have.
    """
    words = ["-c", str(options.ctx_size), "-np", str(1 if options.kv_unified else options.parallel)]
    words += ["-b", str(options.batch_size), "-ub", str(options.ubatch_size), "-fa", options.flash_attn]
    words += ["-ctk", options.cache_type_k, "-ctv", options.cache_type_v, "-sm", options.split_mode]
    if options.n_gpu_layers is not None:
        words += ["-ngl", str(options.n_gpu_layers)]
    if options.tensor_overrides:
        words += ["-ot", ",".join(f"{pattern}={buffer}" for pattern, buffer in options.tensor_overrides)]
    shares = options.tensor_split or [gpu.free_mib for gpu in gpus]
    if len(shares) > 1:
        words += ["-ts", ",".join(f"{share:g}" for share in shares)]
    if options.devices is not None:
        words += ["-dev", ",".join(options.devices) or "none"]
    if options.main_gpu > 0:
        words += ["-mg", str(options.main_gpu)]
    switches = ((options.swa_full, "--swa-full"), (not options.kv_offload, "-nkvo"))
    words += [flag for wanted, flag in (*switches, (not options.op_offload, "--no-op-offload")) if wanted]
    return words


def requests(asked: Planning) -> list[tuple[str, list[str]]]:
    """The models that llama.cpp is asked about, each with its options: this one, and its draft model."""
    options, _ = parse_options(asked.words)
    wanted = [(asked.model, tool_words(options, asked.gpus))]
    if asked.draft is not None:
        main = context_of(asked.shape, options)
        own = replace(options.of_draft(), ctx_size=main.n_ctx)
        wanted.append((options.model_draft, tool_words(own, asked.gpus)))
    return wanted


def cross_check(asked: Planning, answer: Answer) -> Checked:
    """The plan of what llama.cpp answered.

    Raises UsageError where its devices are not those that were given, or where options are wrong.
    """
    options, _ = parse_options(asked.words)
    names = [device.name for device in answer.models[0][:-1]]
    gpus = _gpus(asked, answer, names, options)
    asked = replace(asked, gpus=gpus, host_free_mib=asked.host_free_mib or answer.host_free_mib)
    try:
        analytic, comparable = asked.plan(asked.words), _as_the_tool(asked, options)
    except NotCovered as error:
        notes = [error.message, *_not_in_it(options)]
        return Checked(asked, _uncovered(asked, options, answer, tuple(notes)), None, ())
    devices = tuple(
        _device(ours, _bare(ours, comparable.devices), [_told(ours.name, model) for model in answer.models])
        for ours in analytic.devices
    )
    notes = [*analytic.notes, "compute buffers are with logits of every token of a batch, more than a server takes"]
    return Checked(
        asked, replace(analytic, engine="llama.cpp", devices=devices, notes=tuple(notes)),
        analytic, _differences(analytic, devices, EXACT_MIB * len(answer.models)),
    )  # fmt: skip


def _gpus(asked: Planning, answer: Answer, names: Sequence[str], options: ServerOptions) -> tuple[Gpu, ...]:
    """The GPUs that the plan is for: those that were given, or those that are there."""
    given = asked.gpus or tuple(Gpu(f"CUDA{number}", free) for number, free in enumerate(answer.gpus_free_mib))
    known = {gpu.name: gpu for gpu in given}
    if all(name in known for name in names) and (len(names) == len(given) or _chooses(options)):
        return given
    has = ", ".join(names) or "no GPU"
    if asked.gpus:
        raise UsageError(
            f"llama.cpp sees {has} there, and --gpus names {len(given)}",
            hint="leave --gpus out, or ask a host that has such GPUs with --on HOST",
        )
    raise UsageError(
        f"llama.cpp sees {has} there, and nvidia-smi tells the free memory of {len(given)}",
        hint="say with --gpus how much each has free",
    )


def _chooses(options: ServerOptions) -> bool:
    return options.devices is not None or options.split_mode == "none"


def _as_the_tool(asked: Planning, options: ServerOptions) -> MemoryPlan:
    """The rules' plan of just what the tool was asked."""
    plain = replace(options, spec_types=(), mmproj="", repack=False)
    if options.kv_unified:
        plain = replace(plain, parallel=1, kv_unified=False)
    return plan_memory(asked.shape, plain, asked.gpus, draft=asked.draft)


def _of(name: str, devices: Sequence[Device]) -> Device:
    return next((device for device in devices if device.name == name), Device(name, 0, 0, 0))


def _told(name: str, devices: Sequence[Device]) -> Device:
    """The tool's figures of a device as plans name it; its own name of the host is another."""
    return devices[-1] if name == HOST else _of(name, devices)


def _bare(ours: DevicePlan, comparable: Sequence[DevicePlan]) -> DevicePlan:
    """The rules' figures of a device for just what the tool was asked; there may be nothing else on it."""
    nothing = replace(ours, weights_mib=0.0, kv_mib=0.0)
    return next((device for device in comparable if device.name == ours.name), nothing)


def _device(ours: DevicePlan, bare: DevicePlan, told: Sequence[Device]) -> DevicePlan:
    """A device by the tool, with what the rules say of the rest."""
    return replace(
        ours,
        weights_mib=sum(one.model_mib for one in told) + ours.weights_mib - bare.weights_mib,
        kv_mib=sum(one.context_mib for one in told) + ours.kv_mib - bare.kv_mib,
        compute_mib=float(sum(one.compute_mib for one in told)),
    )


def _differences(analytic: MemoryPlan, devices: Sequence[DevicePlan], exact_mib: float) -> tuple[str, ...]:
    found = []
    for ours, theirs in zip(analytic.devices, devices, strict=True):
        for figure, field in FIGURES.items():
            rules, tool = getattr(ours, field), getattr(theirs, field)
            if not 0 <= rules - tool < exact_mib:
                found.append(f"{ours.name}: {figure} are {tool:,.0f} MiB by llama.cpp, {rules:,.2f} by the rules")
    return tuple(found)


# ---- Models that the rules don't cover


def _not_in_it(options: ServerOptions) -> list[str]:
    notes = []
    if options.kv_unified and options.parallel > 1:
        notes.append("the cache is that of one slot: llama-fit-params knows no unified one")
    if options.spec_types or options.mmproj:
        notes.append("what --spec-type and --mmproj add is not in it")
    return notes


def _uncovered(asked: Planning, options: ServerOptions, answer: Answer, notes: tuple[str, ...]) -> MemoryPlan:
    names = [device.name for device in answer.models[0]]
    free = {gpu.name: gpu.free_mib for gpu in asked.gpus}
    placement = place(asked.shape, options, [free[name] for name in names[:-1]])
    devices = []
    for name in names:
        told = [_of(name, model) for model in answer.models]
        devices.append(
            DevicePlan(
                name=name,
                weights_mib=sum(one.model_mib for one in told),
                kv_mib=sum(one.context_mib for one in told),
                recurrent_mib=0.0,
                compute_mib=sum(one.compute_mib for one in told),
                overhead_mib=GPU_OVERHEAD_MIB,
                free_mib=free.get(name),
            )
        )
    devices[-1] = replace(
        devices[-1], name=HOST, overhead_mib=HOST_OVERHEAD_MIB, free_mib=asked.host_free_mib,
        mapped_mib=mapped_bytes(asked.shape, placement) / MIB if options.mmap else 0.0,
        prompt_cache_mib=float(max(options.cache_ram_mib, 0)),
    )  # fmt: skip
    notes = (*notes, "what --ctx-checkpoints may take is not in it")
    return MemoryPlan(
        asked.shape, options, context_of(asked.shape, options), placement, tuple(devices), notes, engine="llama.cpp"
    )
