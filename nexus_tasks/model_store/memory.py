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
from .server_options import DRAFT_MTP, ServerOptions

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
    if draft is not None:
        options = _inferred(options, draft)
    used = _used(options, gpus)
    main = _model(shape, options, _free(used))
    parts = [(used, main.buffers)]
    notes = list(_notes(shape, options, main.context))
    own = replace(options.of_draft(), ctx_size=main.context.n_ctx)
    if draft is not None:
        of_draft = _used(own, gpus)
        parts.append((of_draft, _draft(draft, own, _free(of_draft))))
    elif options.loads_mtp:
        parts.append((used, _mtp_caches(shape, replace(own, flash_attn=main.options.flash_attn), main.placement)))
    if options.loads_mtp:
        notes.append("compute buffers of multi-token prediction's own context are not in it")
    if projector is not None:
        of_projector = _of_projector(options, gpus)
        parts.append((of_projector, _projector(projector, len(of_projector))))
        notes.append("compute buffers of the projector, which grow with the images, are not in it")
    all_used = list(dict.fromkeys(gpu for its, _ in parts for gpu in its))
    totals = [_spread(buffers, its, all_used) for its, buffers in parts]
    devices = [_device(gpu.name, gpu.free_mib, totals, index) for index, gpu in enumerate(all_used)]
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
    gpus = _named(options.devices, gpus)
    if options.split_mode != "none" or not gpus:
        return list(gpus)
    if options.main_gpu >= len(gpus):
        raise UsageError(f"--main-gpu {options.main_gpu} is not there", hint=f"the GPUs are 0 to {len(gpus) - 1}")
    return [gpus[options.main_gpu]] if options.main_gpu >= 0 else []


def _named(names: Sequence[str] | None, gpus: Sequence[Gpu]) -> list[Gpu]:
    """The GPUs of these names, or all. Raises UsageError where one is not there."""
    by_name = {gpu.name: gpu for gpu in gpus}
    if names is None:
        return list(gpus)
    if missing := [name for name in names if name not in by_name]:
        raise UsageError(f"--device names {missing[0]}", hint=f"the GPUs are {', '.join(by_name) or '(none)'}")
    return [by_name[name] for name in names]


def _of_projector(options: ServerOptions, gpus: Sequence[Gpu]) -> list[Gpu]:
    """The GPU of a projector: one that is named, or the first that there is; none where the host has it."""
    if not options.mmproj_offload or options.mmproj_device == "none":
        return []
    return _named([options.mmproj_device] if options.mmproj_device else options.devices, gpus)[:1]


def _free(gpus: Sequence[Gpu]) -> list[float]:
    return [gpu.free_mib for gpu in gpus]


def _inferred(options: ServerOptions, draft: ModelShape) -> ServerOptions:
    """With the way to draft that llama-server takes from the draft model: its last layer may predict further tokens."""
    predicts = f"blk.{draft.n_layer_all - 1}.nextn.eh_proj.weight" in draft.tensors
    return replace(options, spec_types=(DRAFT_MTP,)) if predicts and not options.spec_types else options


def _spread(buffers: _Buffers, own: Sequence[Gpu], devices: Sequence[Gpu]) -> _Buffers:
    """Bytes by all devices, of what is by a model's own."""

    def spread(sizes: Sequence[int]) -> list[int]:
        by_gpu = dict(zip(own, sizes, strict=False))
        return [*(by_gpu.get(gpu, 0) for gpu in devices), sizes[-1]]

    return replace(
        buffers, weights=spread(buffers.weights), caches=spread(buffers.caches), recurrent=spread(buffers.recurrent),
        compute=spread(buffers.compute),
    )  # fmt: skip


def _model(shape: ModelShape, options: ServerOptions, free: Sequence[float]) -> _Model:
    rules = rules_of(shape)
    placement = place(shape, options, free)
    options = replace(options, flash_attn=resolved(shape, rules, options, placement))
    context = context_of(shape, options, causal=rules.causal)
    context = replace(context, snapshots=1 + options.snapshots if rules.rollback else 1)
    caches = cache_layers(shape, rules, context, placement)
    states = [cache for cache in caches if cache.kind == RECURRENT]
    buffers = replace(
        _loaded(shape, options, placement),
        caches=cache_bytes(caches, placement),
        recurrent=cache_bytes(states, placement),
        compute=compute_bytes(shape, rules, context, placement, caches),
    )
    return _Model(buffers, context, placement, options)


def _loaded(shape: ModelShape, options: ServerOptions, placement: Placement) -> _Buffers:
    """A model without a context."""
    weights, mapped, none = weight_bytes(shape, placement), mapped_bytes(shape, placement), placement.nothing()
    if not options.mmap:
        return _Buffers(weights, none, none, none, logged=weights[-1])
    return _Buffers(weights, none, none, none, mapped, mapped + repacked_bytes(shape, placement))


def _draft(draft: ModelShape, own: ServerOptions, free: Sequence[float]) -> _Buffers:
    """The draft model with a context of its own; where it predicts several tokens, of the layers that do alone."""
    if not own.loads_mtp:
        return _model(draft, own, free).buffers
    placement = place(draft, own, free)
    own = replace(own, flash_attn=resolved(draft, rules_of(draft), own, placement))
    caches = _mtp_caches(draft, own, placement).caches
    return replace(_loaded(draft, own, placement), caches=caches)


def _mtp_caches(shape: ModelShape, own: ServerOptions, placement: Placement) -> _Buffers:
    """The cache of the layers that predict several tokens: those layers alone, in a context of their own."""
    if not shape.n_layer_nextn:
        raise UsageError(
            f"{shape.files[0].name} has no layers that predict several tokens",
            hint=f"plan without --spec-type {DRAFT_MTP}, or with another model",
        )
    none = placement.nothing()
    context = replace(context_of(shape, own), mtp=True)
    caches = cache_bytes(cache_layers(shape, rules_of(shape), context, placement), placement)
    return _Buffers(none, caches, none, none)


def _projector(projector: ModelShape, gpus: int) -> _Buffers:
    """All tensors of a projector, on its GPU or on the host."""
    size = sum(buffer_size(tensor, on_gpu=gpus > 0) for tensor in projector.tensors.values())
    weights, none = [size, 0][: gpus + 1], [0] * (gpus + 1)
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
