"""Encoders, which have no cache: BERT and its like, and EmbeddingGemma.

Graphs of llama.cpp's src/models: bert.cpp and gemma-embedding.cpp.
"""

from __future__ import annotations

from ..graph import tensors as t
from ..graph.attention import attend_to_batch
from ..graph.experts import mixture
from ..graph.tensors import F16, F32, Tensor
from .building import Building
from .transformers import routing

UNNORMALIZED = routing(normalized=False)


def _mask(building: Building) -> Tensor:
    n_tokens = building.net.batch.n_tokens
    return t.graph_input(F16 if building.net.batch.flash_attention else F32, n_tokens, n_tokens)


def bert(building: Building) -> None:
    """Record the graph."""
    net, shape, architecture = building.net, building.shape, building.shape.architecture
    positions = net.positions()
    x = net.token_embeddings()
    types = net.w("token_types")
    if types:
        x = t.add(x, t.view(types, (shape.n_embd,)))
    if architecture == "bert":
        x = t.add(t.get_rows(net.need("position_embd"), positions), x)
    x = net.norm(x, "token_embd_norm", 0, rms=False)
    mask, ids = _mask(building), net.output_ids()
    for layer in range(shape.n_layer):
        block, residual = f"blk.{layer}", x
        q, k, v = net.qkv(x, block, shape.head_k, shape.n_head[layer], shape.n_head_kv[layer])
        if architecture != "bert":
            q, k = t.rope(q, positions), t.rope(k, positions)
        x = net.linear_with_bias(attend_to_batch(net, mask, q, k, v), f"{block}.attn_output")
        x, residual = building.skip_others(layer, ids, x, residual)
        residual = net.norm(t.add(x, residual), f"{block}.attn_output_norm", layer, rms=False)
        x = t.add(_feed_forward(building, residual, layer), residual)
        x = net.norm(x, f"{block}.layer_output_norm", layer, rms=False)
    building.finish(x)


def _feed_forward(building: Building, x: Tensor, layer: int) -> Tensor:
    net, name = building.net, f"blk.{layer}.ffn"
    every = building.shape.integer("moe_every_n_layers")
    if every and layer % every == 1:
        return mixture(net, x, name, UNNORMALIZED(building.shape, layer))
    return net.feed_forward(x, name)


def gemma_embedding(building: Building) -> None:
    """Record the graph."""
    net, shape = building.net, building.shape
    x = net.token_embeddings(scaled=True)
    positions, ids = net.positions(), net.output_ids()
    masks = _mask(building), _mask(building)
    for layer in range(shape.n_layer):
        block, residual = f"blk.{layer}", x
        x = net.norm(x, f"{block}.attn_norm", layer)
        q, k, v = net.qkv(x, block, shape.head_k, shape.n_head[layer], shape.n_head_kv[layer])
        q = t.rope(net.norm(q, f"{block}.attn_q_norm", layer), positions)
        k = t.rope(net.norm(k, f"{block}.attn_k_norm", layer), positions)
        windowed = bool(building.windows) and building.windows[layer]
        x = net.linear(attend_to_batch(net, masks[windowed], t.scale(q), k, v), f"{block}.attn_output")
        x, residual = building.skip_others(layer, ids, x, residual)
        residual = t.add(net.norm(x, f"{block}.post_attention_norm", layer), residual)
        x = net.feed_forward(net.norm(residual, f"{block}.ffn_norm", layer), f"{block}.ffn")
        x = t.add(net.norm(x, f"{block}.post_ffw_norm"), residual)
    building.finish(net.norm(x, "output_norm"))
