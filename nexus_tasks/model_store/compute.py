"""The compute buffers of a context: the graph of its largest batch, split between devices and allocated.

compute_bytes(shape, rules, context, placement, caches)          bytes by device, the host's last
"""

from __future__ import annotations

from collections.abc import Callable

from nexus_tasks.core.errors import UsageError
from nexus_tasks.hostlib.gguf import Tensor as FileTensor
from nexus_tasks.hostlib.model_shape import ModelShape

from .architectures.building import Building
from .architectures.rules import Rules
from .caches import FULL, RECURRENT, SWA, Cache, CacheTensor, cells_of, head_sizes
from .context import Context
from .graph import tensors as t
from .graph.allocator import buffer_bytes
from .graph.attention import LayerCache
from .graph.network import Batch, Network
from .graph.scheduler import Devices, split
from .graph.tensors import Tensor
from .placement import Placement

PIPELINE_COPIES = 4


def compute_bytes(
    shape: ModelShape, rules: Rules, context: Context, placement: Placement, caches: list[Cache]
) -> list[int]:
    """Bytes of each device's compute buffer, the host's last.

    llama.cpp keeps some operations on a device when it runs, and forgets about it when it only measures. Where it
    computes attention on the host that makes gigabytes of a difference, so the larger of both counts.
    """
    measured = _allocated(shape, rules, context, placement, caches, pinned=False)
    if context.offload_kqv or context.flash_attention:
        return measured
    return list(map(max, measured, _allocated(shape, rules, context, placement, caches, pinned=True)))


def _allocated(
    shape: ModelShape, rules: Rules, context: Context, placement: Placement, caches: list[Cache], *, pinned: bool
) -> list[int]:
    net = Network(_batch(shape, context, placement, pinned), _weights(shape, placement), placement.layers.__getitem__)
    building = Building(
        net=net,
        shape=shape,
        attention_caches={one.layer: _resident(one, shape, rules, context) for one in caches if one.kind != RECURRENT},
        states={
            one.layer: tuple(_tensor(tensor, one.device) for tensor in one.tensors)
            for one in caches
            if one.kind == RECURRENT
        },
        kinds=(context.type_k, context.type_v),
        windows=rules.swa_layers(shape),
        pooling=context.pooling,
        snapshots=context.snapshots,
    )
    try:
        rules.build(building)
    except (ArithmeticError, LookupError, ValueError) as error:
        raise UsageError(
            f"the numbers of {shape.files[0].name} don't fit together: its graph can't be made ({error})",
            hint="take another conversion of the model",
        ) from error
    devices = Devices(placement.gpu_count, _copies(placement, context), context.op_offload)
    return buffer_bytes(split(net.graph, devices), placement.gpu_count)


def _batch(shape: ModelShape, context: Context, placement: Placement, pinned: bool) -> Batch:
    return Batch(
        n_tokens=context.n_tokens,
        n_seqs=context.n_seq_max,
        # A token of each slot has one when they are generated, which counts where a batch is shorter than that.
        n_outputs=max(context.n_seq_max, min(context.n_ctx, context.n_ubatch, context.n_outputs_max)),
        n_embd=shape.n_embd,
        streams=context.streams,
        flash_attention=context.flash_attention,
        offload_kqv=context.offload_kqv,
        pinned=pinned,
        host=placement.host,
        mixed=context.mixed,
    )


def _copies(placement: Placement, context: Context) -> int:
    """Pipeline parallelism: several GPUs, with everything on them."""
    pipelined = placement.gpu_count > 1 and placement.full and context.offload_kqv and not placement.overridden
    return PIPELINE_COPIES if pipelined else 1


def _weights(shape: ModelShape, placement: Placement) -> Callable[[str], Tensor | None]:
    """Tensors of the model as they lie, each made once.

    ``NAME#LAYER`` is the copy on the device of a layer; that of the output has the number -1.
    """
    made: dict[tuple[str, int], Tensor] = {}

    def weight(name: str) -> Tensor | None:
        plain, _, layer = name.partition("#")
        device = placement.layers[int(layer)] if layer else placement.tensor_devices.get(plain, -1)
        found = shape.tensors.get(plain)
        if found is None or device < 0:
            return None
        if (plain, device) not in made:
            made[plain, device] = _resident_weight(found, device)
        return made[plain, device]

    return weight


def _resident_weight(tensor: FileTensor, device: int) -> Tensor:
    n0, n1, n2, n3 = (*tensor.shape, 1, 1, 1, 1)[:4]
    made = Tensor("none", tensor.type, (n0, n1, n2, n3))
    made.resident, made.weights = device, True
    return made


def _tensor(cache: CacheTensor, device: int) -> Tensor:
    made = t.leaf(cache.type, cache.width, cache.rows, cache.streams)
    made.resident = device
    return made


def _resident(cache: Cache, shape: ModelShape, rules: Rules, context: Context) -> LayerCache:
    head_k, head_v = head_sizes(shape, cache.kind)
    k, *rest = (_tensor(tensor, cache.device) for tensor in cache.tensors)
    return LayerCache(
        group=SWA if cache.kind == SWA else FULL,
        device=cache.device,
        cells=cells_of(cache.kind, shape, rules, context),
        head_k=head_k,
        head_v=head_v,
        n_head_kv=shape.n_head_kv[cache.layer],
        k=k,
        v=rest[0] if rest else None,
        v_width=rest[0].ne[0] if rest else 0,
    )
