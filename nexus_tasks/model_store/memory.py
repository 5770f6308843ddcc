"""The memory plan: what a llama-server will take of each GPU and of the host, from the model's header alone.

    shape = shape_of(read_model("model.gguf"))
    options, _ = parse_options(["-c", "32768", "-np", "4", "-fa", "on"])
    plan = plan_memory(shape, options, [Gpu("CUDA0", 24_576)])
    plan.verdict, plan.devices[0].compute_mib

Weights, caches and compute buffers are those that llama.cpp itself computes, by its own rules: tensors are assigned to
devices as it assigns them, the graph of the largest batch is recorded, split and allocated as ggml does. Nothing is
loaded. What the rules don't cover is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nexus_tasks.core.errors import UsageError
from nexus_tasks.hostlib.model_shape import ModelShape

from .architectures.table import rules_of
from .caches import RECURRENT, cache_bytes, cache_layers, cells_of
from .compute import compute_bytes
from .context import Context, context_of
from .flash_attention import resolved
from .placement import Placement, buffer_size, mapped_bytes, place, repacked_bytes, weight_bytes
from .server_options import ServerOptions

MIB = 1 << 20
# What a process takes of each GPU beside its buffers: the driver's context and CUDA's kernels, 450 to 750 MiB.
GPU_OVERHEAD_MIB = 600.0
# Of the host's memory: the program, its libraries and the vocabulary.
HOST_OVERHEAD_MIB = 400.0
TIGHT = 0.85  # of what is free
FITS, IS_TIGHT, DOES_NOT_FIT, UNKNOWN = "fits", "tight", "does not fit", "unknown"
HOST = "host"


@dataclass(frozen=True)
class Gpu:
    """A GPU, with what others leave of it."""

    name: str
    free_mib: float


@dataclass(frozen=True)
class DevicePlan:
    """Memory that a server takes of a device, in MiB."""

    name: str
    weights_mib: float
    """The buffer of weights; of the host the sum of its tensors."""
    kv_mib: float
    """Caches of attention and the states of recurrent layers."""
    recurrent_mib: float
    """Of it, the states."""
    compute_mib: float
    overhead_mib: float
    free_mib: float | None
    """What is there for it; None where that is unknown."""
    mapped_mib: float = 0.0
    """Of the host: the span of the file that is mapped."""
    weight_buffers_mib: float = 0.0
    """Buffers of weights as the server's log tells them: of the host with all of that span, and what is reordered."""
    prompt_cache_mib: float = 0.0
    """Of the host: the most that prompts of other slots may take (--cache-ram)."""
    checkpoints_mib: float = 0.0
    """Of the host: the most that states of earlier positions may take (--ctx-checkpoints)."""

    @property
    def total_mib(self) -> float:
        """All of it."""
        buffers = self.weights_mib + self.kv_mib + self.compute_mib
        return buffers + self.overhead_mib + self.prompt_cache_mib + self.checkpoints_mib

    @property
    def left_mib(self) -> float | None:
        """MiB that stay free; None where that is unknown."""
        return None if self.free_mib is None else self.free_mib - self.total_mib

    @property
    def fits(self) -> bool | None:
        """True where it is there; None where nobody knows."""
        return None if self.free_mib is None else self.total_mib <= self.free_mib

    @property
    def verdict(self) -> str:
        """fits, tight, does not fit, or unknown."""
        return UNKNOWN if self.free_mib is None else verdict_of(self.total_mib, self.free_mib)


@dataclass(frozen=True)
class MemoryPlan:
    """A server's memory, by device, the host last."""

    shape: ModelShape
    options: ServerOptions
    context: Context
    placement: Placement
    devices: tuple[DevicePlan, ...]
    notes: tuple[str, ...] = ()
    """What is not in it, each in a line."""
    engine: str = "analytic"

    @property
    def verdict(self) -> str:
        """The worst of all devices'; the host's counts where its memory is known."""
        verdicts = {device.verdict for device in self.devices}
        return next((one for one in (DOES_NOT_FIT, IS_TIGHT, FITS) if one in verdicts), UNKNOWN)


def verdict_of(total_mib: float, free_mib: float) -> str:
    """fits, tight or does not fit."""
    if total_mib > free_mib:
        return DOES_NOT_FIT
    return IS_TIGHT if total_mib > TIGHT * free_mib else FITS


def plan_memory(
    shape: ModelShape,
    options: ServerOptions,
    gpus: Sequence[Gpu],
    *,
    host_free_mib: float | None = None,
    draft: ModelShape | None = None,
    projector: ModelShape | None = None,
) -> MemoryPlan:
    """The plan of a server.

    Args:
        gpus: those that the process sees, in its order.
        host_free_mib: of the host's memory; None where it is unknown.
        draft: the model that drafts, where ``options`` name one.
        projector: that of ``--mmproj``.

    Raises UsageError for an option or an architecture that the rules don't cover.
    """
    used = _used(options, gpus)
    free = [gpu.free_mib for gpu in used]
    main = _model(shape, options, free)
    totals = [main.buffers]
    notes = list(_notes(shape, options, main.context))
    if draft is not None:
        totals.append(_draft(draft, options, main.context, free))
    elif "draft-mtp" in options.spec_types:
        totals.append(_mtp_caches(shape, options, main, len(used)))
        notes.append("compute buffers of multi-token prediction's own context are not in it")
    if projector is not None:
        totals.append(_projector(projector, options, len(used)))
        notes.append("compute buffers of the projector, which grow with the images, are not in it")
    names = [gpu.name for gpu in used]
    devices = [
        _device(name, gpu.free_mib, totals, index) for index, (name, gpu) in enumerate(zip(names, used, strict=True))
    ]
    return MemoryPlan(
        shape, main.options, main.context, main.placement,
        (*devices, _host(shape, main, totals, host_free_mib)), tuple(notes),
    )  # fmt: skip


@dataclass(frozen=True)
class _Buffers:
    """Bytes by device, the host last, of one model."""

    weights: list[int]
    caches: list[int]
    recurrent: list[int]
    compute: list[int]
    mapped: int = 0
    logged: int = 0
    """Of the host's weights, as the log of the server tells their buffers."""


@dataclass(frozen=True)
class _Model:
    """A model that is loaded, and what its options came to."""

    buffers: _Buffers
    context: Context
    placement: Placement
    options: ServerOptions


def _used(options: ServerOptions, gpus: Sequence[Gpu]) -> list[Gpu]:
    """Of the GPUs those that a server uses: --device and --split-mode none choose."""
    if options.split_mode in ("row", "tensor"):
        raise UsageError(
            f"the memory plan doesn't cover --split-mode {options.split_mode}",
            hint="llama.cpp's CUDA backend of this version splits by layer, or uses one GPU (none)",
        )
    by_name = {gpu.name: gpu for gpu in gpus}
    if options.devices is not None:
        if missing := [name for name in options.devices if name not in by_name]:
            raise UsageError(f"--device names {missing[0]}", hint=f"the GPUs are {', '.join(by_name) or '(none)'}")
        gpus = [by_name[name] for name in options.devices]
    if options.split_mode != "none" or not gpus:
        return list(gpus)
    if options.main_gpu >= len(gpus):
        raise UsageError(f"--main-gpu {options.main_gpu} is not there", hint=f"the GPUs are 0 to {len(gpus) - 1}")
    return [gpus[options.main_gpu]] if options.main_gpu >= 0 else []


def _model(shape: ModelShape, options: ServerOptions, free: Sequence[float]) -> _Model:
    rules = rules_of(shape)
    options = replace(options, flash_attn=resolved(shape, rules, options, bool(free)))
    context = context_of(shape, options, causal=rules.causal)
    context = replace(context, snapshots=1 + options.snapshots if rules.rollback else 1)
    placement = place(shape, options, free)
    caches = cache_layers(shape, rules, context, placement)
    states = [cache for cache in caches if cache.kind == RECURRENT]
    weights = weight_bytes(shape, placement)
    mapped = mapped_bytes(shape, placement)
    buffers = _Buffers(
        weights=weights,
        caches=cache_bytes(caches, placement),
        recurrent=cache_bytes(states, placement),
        compute=compute_bytes(shape, rules, context, placement, caches),
        mapped=mapped if options.mmap else 0,
        logged=mapped + repacked_bytes(shape, placement) if options.mmap else weights[-1],
    )
    return _Model(buffers, context, placement, options)


def _draft(draft: ModelShape, options: ServerOptions, main: Context, free: Sequence[float]) -> _Buffers:
    """The draft model with a context as long as the main one."""
    own = replace(options.of_draft(), ctx_size=main.n_ctx if main.unified else main.n_ctx_seq * main.n_seq_max)
    return _model(draft, own, free).buffers


def _mtp_caches(shape: ModelShape, options: ServerOptions, main: _Model, gpus: int) -> _Buffers:
    """The cache of the layers that predict several tokens: those layers alone, in a context of their own."""
    rules = rules_of(shape)
    own = context_of(
        shape, replace(options.of_draft(), ctx_size=main.context.n_ctx, flash_attn=main.options.flash_attn)
    )
    context = replace(own, mtp=True)
    caches = cache_bytes(cache_layers(shape, rules, context, main.placement), main.placement)
    none = [0] * (gpus + 1)
    return _Buffers(none, caches, none, none)


def _projector(projector: ModelShape, options: ServerOptions, gpus: int) -> _Buffers:
    """All tensors of a projector, on the first GPU unless the host is asked for."""
    on_gpu = bool(gpus) and options.mmproj_offload
    size = sum(buffer_size(tensor, on_gpu=on_gpu) for tensor in projector.tensors.values())
    weights, none = [0] * (gpus + 1), [0] * (gpus + 1)
    weights[0 if on_gpu else gpus] = size
    return _Buffers(weights, none, none, none, logged=weights[-1])


def _device(name: str, free_mib: float, totals: Sequence[_Buffers], index: int) -> DevicePlan:
    weights_mib = sum(one.weights[index] for one in totals) / MIB
    return DevicePlan(
        name=name,
        weights_mib=weights_mib,
        kv_mib=sum(one.caches[index] for one in totals) / MIB,
        recurrent_mib=sum(one.recurrent[index] for one in totals) / MIB,
        compute_mib=sum(one.compute[index] for one in totals) / MIB,
        overhead_mib=GPU_OVERHEAD_MIB,
        free_mib=free_mib,
        weight_buffers_mib=weights_mib,
    )


def _host(shape: ModelShape, main: _Model, totals: Sequence[_Buffers], free_mib: float | None) -> DevicePlan:
    options, host = main.options, _device(HOST, 0, totals, -1)
    logged_mib = sum(one.logged for one in totals) / MIB
    # Of a span that is mapped the kernel keeps what is read, unless all of it is locked.
    locked_mib = max(logged_mib - host.weights_mib, 0.0) if options.mlock and options.mmap else 0.0
    return replace(
        host,
        overhead_mib=HOST_OVERHEAD_MIB + locked_mib,
        free_mib=free_mib,
        mapped_mib=sum(one.mapped for one in totals) / MIB,
        weight_buffers_mib=logged_mib,
        prompt_cache_mib=float(max(options.cache_ram_mib, 0)),
        checkpoints_mib=checkpoint_bytes(shape, main.context) * options.ctx_checkpoints * options.parallel / MIB,
    )


def checkpoint_bytes(shape: ModelShape, context: Context) -> int:
    """Bytes of a checkpoint of a slot: what can't be cut back, the sliding windows and the recurrent states."""
    rules = rules_of(shape)
    single = replace(context, n_seq_max=1, unified=True)
    nowhere = Placement(0, (0,) * (shape.n_layer_all + 1), 0, {}, (), False)
    caches = cache_layers(shape, rules, single, nowhere)
    if context.swa_full:
        caches = [cache for cache in caches if cache.kind == RECURRENT]
    kept = [
        cache
        for cache in caches
        if cache.kind == RECURRENT or cells_of(cache.kind, shape, rules, single) < single.n_ctx_seq
    ]
    return sum(cache_bytes(kept, nowhere))


def _notes(shape: ModelShape, options: ServerOptions, context: Context) -> list[str]:
    notes = []
    if options.cache_ram_mib < 0:
        notes.append("--cache-ram is without a limit: prompts may take all of the host's memory")
    if options.fit and not options.ctx_size:
        notes.append(
            f"the context is the model's own, {context.n_ctx:,} tokens; with --fit on the server may shrink it"
        )
    if options.mmproj and not shape.files:
        notes.append("the projector is not in it")
    return notes
