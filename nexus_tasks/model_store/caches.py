"""Caches of attention and of recurrent layers: which a model has, how many cells, where, and their bytes.

    caches = cache_layers(shape, rules, context, placement)
    cache_bytes(caches, placement)

The rules are those of create_memory (llama-model.cpp), llama-kv-cache*.cpp and llama-memory-*.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from nexus_tasks.hostlib.model_shape import ModelShape
from nexus_tasks.hostlib.tensor_types import row_bytes

from .architectures.rules import Rules
from .context import Context, pad_cells
from .graph.allocator import GPU_ALIGNMENT, HOST_ALIGNMENT, padded, row_padding
from .graph.tensors import F32
from .placement import Placement

FULL, SWA, RECURRENT = "full", "swa", "recurrent"


@dataclass(frozen=True)
class CacheTensor:
    """A tensor of a cache."""

    type: int
    width: int
    """Elements of a row."""
    rows: int
    streams: int = 1

    def buffer_bytes(self, *, on_gpu: bool) -> int:
        """Bytes in a device's buffer."""
        size = row_bytes(self.type, self.width) * self.rows * self.streams
        if on_gpu:
            return padded(size + row_padding(self.type, self.width), GPU_ALIGNMENT)
        return padded(size, HOST_ALIGNMENT)


@dataclass(frozen=True)
class Cache:
    """The cache of one layer: K and V, or the two states of a recurrent layer."""

    layer: int
    kind: str
    device: int
    tensors: tuple[CacheTensor, ...]


def cache_layers(shape: ModelShape, rules: Rules, context: Context, placement: Placement) -> list[Cache]:
    """The caches of all layers that have one."""
    swa, recurrent = rules.swa_layers(shape), rules.recurrent_layers(shape)
    last = shape.n_layer_all if context.mtp else shape.n_layer
    first = shape.n_layer if context.mtp else 0
    caches = []
    for layer in range(first, last):
        device = placement.layers[layer] if context.offload_kqv else placement.host
        if rules.has_cache and rules.has_attention(shape, layer, recurrent):
            kind = SWA if swa and swa[layer] else FULL
            caches.append(Cache(layer, kind, device, _attention(shape, rules, context, layer, kind)))
        if recurrent and recurrent[layer] and not context.mtp:
            caches.append(Cache(layer, RECURRENT, device, _states(shape, rules, context)))
    return caches


def cells_of(kind: str, shape: ModelShape, rules: Rules, context: Context) -> int:
    """Cells of a sequence's cache."""
    if kind != SWA or context.swa_full:
        return context.n_ctx_seq
    sequences = context.n_seq_max if context.unified else 1
    return pad_cells(min(context.n_ctx_seq, rules.window_size(shape) * sequences + context.n_ubatch))


def head_sizes(shape: ModelShape, kind: str) -> tuple[int, int]:
    """Elements of a head of K and of V."""
    return (shape.head_k_swa, shape.head_v_swa) if kind == SWA else (shape.head_k, shape.head_v)


def v_widths(shape: ModelShape, rules: Rules) -> list[int]:
    """Elements of a row of V, by layer."""
    swa = rules.swa_layers(shape)
    kinds = [SWA if swa and swa[layer] else FULL for layer in range(shape.n_layer_all)]
    return [head_sizes(shape, kind)[1] * shape.n_head_kv[layer] for layer, kind in enumerate(kinds)]


def _attention(shape: ModelShape, rules: Rules, context: Context, layer: int, kind: str) -> tuple[CacheTensor, ...]:
    cells = cells_of(kind, shape, rules, context)
    k = CacheTensor(context.type_k, head_sizes(shape, kind)[0] * shape.n_head_kv[layer], cells, context.streams)
    if rules.is_mla(shape):
        return (k,)
    widths = v_widths(shape, rules)
    width = widths[layer] if context.flash_attention else max(widths)
    return k, CacheTensor(context.type_v, width, cells, context.streams)


def _states(shape: ModelShape, rules: Rules, context: Context) -> tuple[CacheTensor, ...]:
    return tuple(CacheTensor(F32, width, context.n_seq_max * context.snapshots) for width in rules.state_widths(shape))


def cache_bytes(caches: list[Cache], placement: Placement) -> list[int]:
    """Bytes by device, the host's last."""
    total = [0] * (placement.gpu_count + 1)
    for cache in caches:
        on_gpu = cache.device != placement.host
        total[cache.device] += sum(tensor.buffer_bytes(on_gpu=on_gpu) for tensor in cache.tensors)
    return total
