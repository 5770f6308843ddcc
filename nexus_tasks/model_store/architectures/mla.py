"""Decoders with compressed keys and values (MLA): the graph of llama.cpp's src/models/deepseek2.cpp."""

from __future__ import annotations

from ..graph import tensors as t
from ..graph.experts import mixture
from ..graph.tensors import Tensor
from .building import Building
from .transformers import routing

ROUTING = routing(normalized=None)


def deepseek2(building: Building) -> None:
    """Record the graph."""
    net, shape = building.net, building.shape
    x = net.token_embeddings()
    temperature = (
        t.graph_input(t.F32, 1, 1, net.batch.n_tokens) if shape.number("attention.temperature_scale") else None
    )
    positions = net.positions()
    ids = net.output_ids()
    for layer in range(shape.n_layer):
        residual = x
        x = net.norm(x, f"blk.{layer}.attn_norm", layer)
        x = _attention(building, x, positions, layer, temperature)
        x, residual = building.skip_others(layer, ids, x, residual)
        residual = t.add(x, residual)
        x = net.norm(residual, f"blk.{layer}.ffn_norm", layer)
        x = t.add(_feed_forward(building, x, layer), residual)
    building.head(x)


def _feed_forward(building: Building, x: Tensor, layer: int) -> Tensor:
    net, name = building.net, f"blk.{layer}.ffn"
    if layer < building.shape.integer("leading_dense_block_count"):
        return net.feed_forward(x, name)
    out = mixture(net, x, name, ROUTING(building.shape, layer))
    return t.add(out, net.feed_forward(x, name, suffix="_shexp")) if net.w(f"{name}_up_shexp") else out


def _attention(building: Building, x: Tensor, positions: Tensor, layer: int, temperature: Tensor | None) -> Tensor:
    net, shape, block = building.net, building.shape, f"blk.{layer}"
    heads, rope, rank = shape.n_head[layer], shape.n_rot, shape.integer("attention.kv_lora_rank")
    key = shape.integer("attention.key_length_mla") or shape.head_k
    plain, n_tokens = key - rope, x.ne[1]
    q = _query(building, x, block)
    q = t.reshape(q, key, heads, n_tokens)
    both = net.linear(x, f"{block}.attn_kv_a_mqa")
    compressed = t.view(both, (rank, n_tokens), (both.nb[1],))
    k_rope = t.rope(t.view(both, (rope, 1, n_tokens), (both.nb[1], both.nb[1])), positions)
    compressed = net.norm(compressed, f"{block}.attn_kv_a_norm", layer)
    if building.attention_caches[layer].v is not None:
        return _decompressed(building, q, compressed, k_rope, positions, layer, temperature)
    q_plain = t.view(q, (plain, heads, n_tokens), (q.nb[1], q.nb[2]))
    q_rope = t.rope(t.view(q, (rope, heads, n_tokens), (q.nb[1], q.nb[2])), positions)
    absorbed = t.mul_mat(net.need(f"{block}.attn_k_b"), t.permute(q_plain, 0, 2, 1, 3))
    query = t.concat(t.permute(absorbed, 0, 2, 1, 3), q_rope, 0)
    compressed = t.reshape(compressed, rank, 1, n_tokens)
    k = t.concat(compressed, k_rope, 0)
    if temperature:
        query = t.mul(query, temperature)
    v_b = net.need(f"{block}.attn_v_b")
    return net.linear(building.attend(layer, query, k, compressed, v_mla=v_b), f"{block}.attn_output")


def _query(building: Building, x: Tensor, block: str) -> Tensor:
    net = building.net
    if net.w(f"{block}.attn_q"):
        return net.linear(x, f"{block}.attn_q")
    low = net.norm(net.linear(x, f"{block}.attn_q_a"), f"{block}.attn_q_a_norm", int(block.split(".")[1]))
    return net.linear(low, f"{block}.attn_q_b")


def _decompressed(
    building: Building,
    q: Tensor,
    compressed: Tensor,
    k_rope: Tensor,
    positions: Tensor,
    layer: int,
    temperature: Tensor | None,
) -> Tensor:
    """Older files, without the split matrices: keys and values of all heads are made and kept."""
    net, shape, block = building.net, building.shape, f"blk.{layer}"
    heads, rope, n_tokens = shape.n_head[layer], shape.n_rot, q.ne[2]
    plain, head_v = shape.head_k - rope, shape.head_v
    kv = net.linear(compressed, f"{block}.attn_kv_b")
    strides = (4 * (plain + head_v), 4 * (plain + head_v) * heads)
    k_plain = t.view(kv, (plain, heads, n_tokens), strides)
    v = t.cont(t.view(kv, (head_v, heads, n_tokens), strides))
    query = t.rope(q, positions)
    k = t.concat(k_plain, t.repeat(k_rope, rope, heads, n_tokens), 0)
    if temperature:
        query = t.mul(query, temperature)
    return net.linear(building.attend(layer, query, k, v), f"{block}.attn_output")
