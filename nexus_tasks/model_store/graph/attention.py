"""Attention to a cache, as build_attn of llama-graph.cpp builds it: K and V stored, then all cells attended to.

inputs = attention_inputs(net, cache, kinds)
x = attend(net, inputs, cache, q, k, v, v_first=True)
"""

from __future__ import annotations

from dataclasses import dataclass

from nexus_tasks.hostlib.tensor_types import TENSOR_TYPES

from . import tensors as t
from .network import Network
from .tensors import F16, F32, I64, Tensor


@dataclass(frozen=True)
class LayerCache:
    """The cache of a layer: its resident tensors and what llama.cpp says of them."""

    group: str
    """Caches of one group have the same cells, and so one mask: "full" or "swa"."""
    device: int
    cells: int
    head_k: int
    head_v: int
    n_head_kv: int
    k: Tensor
    v: Tensor | None
    v_width: int
    """Elements of a row of V, the largest of all layers where it is transposed."""


@dataclass
class AttentionInputs:
    """Inputs that all layers of a group of caches share."""

    k_ids: Tensor
    v_ids: Tensor | None
    mask: Tensor
    rotation_k: Tensor | None
    rotation_v: Tensor | None


def attention_inputs(net: Network, cache: LayerCache, kinds: tuple[int, int]) -> AttentionInputs:
    """build_attn_inp_kv: ids of cells, the mask, and the rotations of quantized caches.

    ``kinds``: types of K and V.
    """
    batch = net.batch
    mask_type = F16 if batch.flash_attention else F32
    v_ids = None
    if cache.v is not None:
        per_token = 1 if batch.flash_attention else cache.v_width
        v_ids = t.graph_input(I64, batch.n_tokens * per_token)
    mask = t.graph_input(mask_type, cache.cells, batch.n_tokens // batch.streams, 1, batch.streams)
    rotation_k = _rotation(kinds[0], cache.head_k, growing=True) if cache.v is not None else None
    rotation_v = _rotation(kinds[1], cache.head_v, growing=False) if cache.v is not None else None
    return AttentionInputs(t.graph_input(I64, batch.n_tokens), v_ids, mask, rotation_k, rotation_v)


def attend(
    net: Network, inputs: AttentionInputs, cache: LayerCache, q: Tensor, k: Tensor | None, v: Tensor | None, *,
    v_first: bool, sinks: Tensor | None = None, v_mla: Tensor | None = None, soft_cap: bool = False,
) -> Tensor:  # fmt: skip
    """build_attn without the output projection: store K and V, then attend to all cells.

    ``v_first``: the caches without a sliding window put V before K.
    """
    expand = net.graph.expand
    if inputs.rotation_k:
        q = _rotated(q, inputs.rotation_k)
        k = _rotated(k, inputs.rotation_k) if k else None
    if inputs.rotation_v:
        v = _rotated(v, inputs.rotation_v) if v else None
    for one in (q, v, k) if v_first else (q, k, v):
        if one:
            expand(one)
    if k:
        expand(_stored(cache.k, _rows(k), inputs.k_ids))
    if v and cache.v is not None and inputs.v_ids:
        expand(_stored_v(net, cache.v, v, inputs.v_ids))
    result = _attend(net, cache, q, inputs.mask, sinks, v_mla, soft_cap)
    return _rotated(result, inputs.rotation_v) if inputs.rotation_v else result


def attend_to_batch(net: Network, mask: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """build_attn without a cache: of all tokens of a batch to one another."""
    for one in (q, k, v):
        net.graph.expand(one)
    q = t.view(q, q.ne, (q.nb[1], q.nb[2], q.nb[2] * q.ne[2]))
    q, k, v = (t.permute(one, 0, 2, 1, 3) for one in (q, k, v))
    if net.batch.flash_attention:
        return net.graph.expand(_flash(q, k, v, mask, None, None))
    x = t.mul_mat(t.cont(t.transpose(v)), t.soft_max(t.mul_mat(k, q), mask))
    x = t.permute(x, 0, 2, 1, 3)
    return net.graph.expand(t.cont(x, x.ne[0] * x.ne[1], x.ne[2] * x.ne[3]))


def _stored_v(net: Network, cache: Tensor, v: Tensor, ids: Tensor) -> Tensor:
    """cpy_v: in rows with FlashAttention, else element by element."""
    if net.batch.flash_attention:
        return _stored(cache, _rows(v), ids)
    width = v.ne[0] * v.ne[1]
    merged = v.nb[2] == t.row_bytes(v.type, width)
    v = t.reshape(v, width, v.ne[2]) if merged else t.cont(v, width, v.ne[2])
    if width < cache.ne[0]:
        v = t.pad(v, cache.ne[0] - width)
    single = t.reshape(cache, 1, cache.element_count)
    return t.set_rows(single, t.reshape(v, 1, v.element_count), ids)


def _attend(
    net: Network, cache: LayerCache, q: Tensor, mask: Tensor, sinks: Tensor | None, v_mla: Tensor | None, soft_cap: bool
) -> Tensor:
    """build_attn_mha."""
    k, v = _cached(net, cache, v_mla is not None or cache.v is None)
    streams = k.ne[3]
    per_stream = q.ne[2] // streams
    q = t.view(q, (q.ne[0], q.ne[1], per_stream, streams), (q.nb[1], q.nb[2], q.nb[2] * per_stream))
    transposed = v.nb[1] > v.nb[2]
    q, k, v = (t.permute(one, 0, 2, 1, 3) for one in (q, k, v))
    if net.batch.flash_attention:
        x = _flash(q, k, v, mask, sinks, v_mla)
    else:
        x = t.mul_mat(k, q)
        if soft_cap:
            x = t.scale(t.unary(t.scale(x)))
        x = t.soft_max(x, mask, sinks)
        if not transposed:
            v = t.cont(t.transpose(v))
        x = t.mul_mat(v, x)
        if v_mla:
            x = t.mul_mat(v_mla, x)
        x = t.permute(x, 0, 2, 1, 3)
        x = t.cont(x, x.ne[0] * x.ne[1], x.ne[2] * x.ne[3])
        if net.batch.pinned and not net.batch.offload_kqv:
            x.backend = net.batch.host
    return net.graph.expand(x)


def _flash(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, sinks: Tensor | None, v_mla: Tensor | None) -> Tensor:
    k, v = (t.cast(one, F16) if one.type == F32 else one for one in (k, v))
    x = t.flash_attention(q, k, v, mask, sinks)
    if v_mla:
        x = t.mul_mat(v_mla, t.permute(x, 0, 2, 1, 3))
        x = t.cont(t.permute(x, 0, 2, 1, 3))
    return t.reshape(x, x.ne[0] * x.ne[1], x.ne[2] * x.ne[3])


def _cached(net: Network, cache: LayerCache, within_k: bool) -> tuple[Tensor, Tensor]:
    """get_k and get_v: views of the whole caches, in heads; with MLA, V is the begin of K."""
    streams, cells, heads = net.batch.streams, cache.cells, cache.n_head_kv
    k_row = cache.k.ne[0]
    k = t.view(
        cache.k,
        (cache.head_k, heads, cells, streams),
        tuple(t.row_bytes(cache.k.type, width) for width in (cache.head_k, k_row, k_row * cells)),
    )
    if within_k or cache.v is None:
        return k, t.view(k, (cache.head_v, *k.ne[1:]), k.nb[1:])
    kind, row = cache.v.type, cache.v_width
    if net.batch.flash_attention:
        strides = (cache.head_v, row, row * cells)
        return k, t.view(cache.v, (cache.head_v, heads, cells, streams), _bytes(kind, strides))
    strides = (cells * cache.head_v, cells, cells * row)
    return k, t.view(cache.v, (cells, heads, cache.head_v, streams), _bytes(kind, strides))


def _bytes(kind: int, widths: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(t.row_bytes(kind, width) for width in widths)


def _rows(x: Tensor) -> Tensor:
    return t.view(x, (x.ne[0] * x.ne[1], x.ne[2]), (x.nb[2],))


def _stored(cache: Tensor, rows: Tensor, ids: Tensor) -> Tensor:
    if cache.ne[2] > 1:
        cache = t.reshape(cache, cache.ne[0], cache.ne[1] * cache.ne[2])
    return t.set_rows(cache, rows, ids)


def _rotation(kind: int, head: int, *, growing: bool) -> Tensor | None:
    """The Hadamard matrix that quantized caches are turned by."""
    if TENSOR_TYPES[kind].per_block == 1 or head % 64:
        return None
    size = 64
    while growing and head % (2 * size) == 0:
        size *= 2
    return t.graph_input(F32, size, size)


def _rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """llama_mul_mat_hadamard."""
    size = rotation.ne[0]
    rows = x.element_count // size
    turned = t.mul_mat(rotation, t.reshape(x, size, rows) if x.is_contiguous else t.cont(x, size, rows))
    return t.reshape(turned, *x.ne)
