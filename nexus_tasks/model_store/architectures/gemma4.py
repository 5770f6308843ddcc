"""Gemma 4: the graph of llama.cpp's src/models/gemma4.cpp.

The last layers have no cache of their own and use that of an earlier one; small models add an embedding of the token in
each layer; mixtures of experts work beside a network.
"""

from __future__ import annotations

from nexus_tasks.hostlib.model_shape import ModelShape

from ..graph import tensors as t
from ..graph.experts import Routing, mixture
from ..graph.tensors import I32, Tensor
from .building import Building


def layers_with_caches(shape: ModelShape) -> int:
    """The number of layers, from the first on, that have a cache."""
    return shape.n_layer_all - shape.integer("attention.shared_kv_layers")


def has_cache(shape: ModelShape, layer: int, recurrent: bool) -> bool:
    """True where a layer has a cache of its own."""
    return layer < layers_with_caches(shape)


def gemma4(building: Building) -> None:
    """Record the graph."""
    net, shape = building.net, building.shape
    x = net.token_embeddings(scaled=True)
    positions, ids = net.positions(), net.output_ids()
    for layer in building.attention_caches:
        building.inputs_of(layer)
    by_layer = _embeddings_by_layer(building, x) if net.w("per_layer_token_embd") else None
    for layer in range(shape.n_layer):
        x = _layer(building, x, positions, by_layer, layer)
    x = net.norm(x, "output_norm")
    x.output = True
    x = t.get_rows(x, ids)
    logits = building.logits(x)
    if shape.number("final_logit_softcapping"):
        logits = t.scale(t.unary(t.scale(logits)))
    building.finish(x, logits)


def _embeddings_by_layer(building: Building, x: Tensor) -> Tensor:
    """Embeddings of each token for each layer: their own, and a projection of the first."""
    net, layers = building.net, building.shape.n_layer
    width, n_tokens = building.shape.integer("embedding_length_per_layer_input"), x.ne[1]
    own = t.get_rows(net.need("per_layer_token_embd"), t.graph_input(I32, n_tokens))
    own = net.graph.expand(t.scale(t.reshape(own, width, layers, n_tokens)))
    projected = t.scale(t.mul_mat(net.need("per_layer_model_proj"), x))
    projected = net.norm(t.reshape(projected, width, layers, n_tokens), "per_layer_proj_norm")
    both = t.scale(t.add(projected, own))
    return t.cont(t.permute(both, 0, 2, 1, 3))


def _layer(building: Building, x: Tensor, positions: Tensor, by_layer: Tensor | None, layer: int) -> Tensor:
    net, block, residual = building.net, f"blk.{layer}", x
    x = _attention(building, net.norm(x, f"{block}.attn_norm", layer), positions, layer)
    residual = t.add(net.norm(x, f"{block}.post_attention_norm", layer), residual)
    if net.w(f"{block}.ffn_gate_inp"):
        x = _with_experts(building, residual, layer)
    else:
        x = net.feed_forward(net.norm(residual, f"{block}.ffn_norm", layer), f"{block}.ffn")
    x = t.add(net.norm(x, f"{block}.post_ffw_norm"), residual)
    if by_layer is not None:
        inner = t.unary(net.linear(x, f"{block}.inp_gate"))
        inner = t.mul(inner, t.view(by_layer, by_layer.ne[:2], (by_layer.nb[1],)))
        x = t.add(x, net.norm(net.linear(inner, f"{block}.proj"), f"{block}.post_norm", layer))
    factor = net.w(f"{block}.layer_output_scale")
    return t.mul(x, factor) if factor else x


def _attention(building: Building, x: Tensor, positions: Tensor, layer: int) -> Tensor:
    net, shape, block = building.net, building.shape, f"blk.{layer}"
    windowed = building.windows[layer]
    head = shape.head_k_swa if windowed else shape.head_k
    factors = None if windowed else net.rope_factors(layer)
    n_tokens = x.ne[1]
    q = t.reshape(net.linear(x, f"{block}.attn_q"), head, shape.n_head[layer], n_tokens)
    q = t.rope(net.norm(q, f"{block}.attn_q_norm", layer), positions, factors)
    own = layers_with_caches(shape)
    if layer >= own:
        return net.linear(building.attend(own - (2 if windowed else 1), q, None, None), f"{block}.attn_output")
    k = net.linear(x, f"{block}.attn_k")
    v = net.linear(x, f"{block}.attn_v") if net.w(f"{block}.attn_v") else k
    k, v = (t.reshape(one, head, shape.n_head_kv[layer], n_tokens) for one in (k, v))
    k = t.rope(net.norm(k, f"{block}.attn_k_norm", layer), positions, factors)
    return net.linear(building.attend(layer, q, k, t.like("rms_norm", v)), f"{block}.attn_output")


def _with_experts(building: Building, x: Tensor, layer: int) -> Tensor:
    net, shape, block = building.net, building.shape, f"blk.{layer}"
    plain = net.feed_forward(net.norm(x, f"{block}.ffn_norm", layer), f"{block}.ffn")
    plain = net.norm(plain, f"{block}.post_ffw_norm_1", layer)
    scaled = t.mul(t.scale(t.like("rms_norm", x)), net.required(f"{block}.ffn_gate_inp.scale"))
    logits = t.mul_mat(net.need(f"{block}.ffn_gate_inp"), scaled)
    routing = Routing(shape.n_expert, shape.n_expert_used[layer], normalized=True)
    chosen = mixture(net, net.norm(x, f"{block}.pre_ffw_norm_2", layer), f"{block}.ffn", routing, logits=logits)
    return t.add(plain, net.norm(chosen, f"{block}.post_ffw_norm_2", layer))
