"""Models with convolutions or state spaces beside attention: LFM2, Granite hybrid, Nemotron-H, Falcon-H1, Jamba, Mamba.

Graphs of llama.cpp's src/models: lfm2.cpp, granite-hybrid.cpp, nemotron-h.cpp, falcon-h1.cpp,
jamba.cpp, mamba.cpp, mamba2.cpp.
"""

from __future__ import annotations

from collections.abc import Callable

from nexus_tasks.hostlib.model_shape import ModelShape

from ..graph import tensors as t
from ..graph.experts import mixture
from ..graph.states import mamba, mamba2, shortconv, state_inputs
from ..graph.tensors import Tensor
from .building import Building
from .transformers import routing

NORMALIZED = routing(normalized=True)
PLAIN = routing(normalized=False)
SIGMOID = routing("sigmoid", normalized=None)


def without_kv_heads(shape: ModelShape) -> tuple[bool, ...]:
    """Recurrent are the layers without heads of K and V."""
    return tuple(heads == 0 for heads in shape.n_head_kv)


def without_kv_heads_and_ffn(shape: ModelShape) -> tuple[bool, ...]:
    """Of Nemotron-H, where each layer is one of three kinds."""
    own = [
        layer < shape.n_layer and shape.n_head_kv[layer] == 0 and shape.n_ff[layer] == 0
        for layer in range(shape.n_layer_all)
    ]
    return tuple(own)


def attends_of_nemotron(shape: ModelShape, layer: int, recurrent: bool) -> bool:
    """Attention is in the layers that are neither recurrent nor a feed-forward network."""
    return not recurrent and shape.n_ff[layer] == 0


def attends_everywhere(shape: ModelShape, layer: int, recurrent: bool) -> bool:
    """Attention is in all layers, beside the state spaces."""
    return True


def all_layers(shape: ModelShape) -> tuple[bool, ...]:
    """Every layer is recurrent."""
    return (True,) * shape.n_layer_all


# ---- LFM2


def lfm2(building: Building) -> None:
    """Record the graph."""
    net, shape = building.net, building.shape
    x = net.token_embeddings()
    states = state_inputs(net)
    positions, ids = net.positions(), net.output_ids()
    for layer in range(shape.n_layer):
        block, residual = f"blk.{layer}", x
        x = net.norm(x, f"{block}.attn_norm", layer)
        if layer in building.states:
            x = shortconv(net, states, building.states[layer][0], block, x, building.snapshots)
        else:
            x = _normed_attention(building, x, positions, layer)
        x, residual = building.skip_others(layer, ids, x, residual)
        residual = t.add(residual, x)
        x = net.norm(residual, f"{block}.ffn_norm", layer)
        dense = not net.w(f"{block}.ffn_gate_inp")
        x = net.feed_forward(x, f"{block}.ffn") if dense else mixture(net, x, f"{block}.ffn", NORMALIZED(shape, layer))
        x = t.add(residual, x)
    building.head(x, norm="token_embd_norm" if net.w("token_embd_norm") else "output_norm")


def _normed_attention(building: Building, x: Tensor, positions: Tensor, layer: int) -> Tensor:
    net, shape, block = building.net, building.shape, f"blk.{layer}"
    q, k, v = net.qkv(x, block, shape.head_k, shape.n_head[layer], shape.n_head_kv[layer])
    q = t.rope(net.norm(q, f"{block}.attn_q_norm", layer), positions)
    k = t.rope(net.norm(k, f"{block}.attn_k_norm", layer), positions)
    return net.linear(building.attend(layer, q, k, v), f"{block}.attn_output")


# ---- Mamba 2 with attention


def falcon_h1(building: Building) -> None:
    """Record the graph: each layer has attention and a state space side by side."""
    net, shape, sizes = building.net, building.shape, building.state_sizes()
    x = net.token_embeddings()
    positions, states, ids = net.positions(), state_inputs(net), net.output_ids()
    for layer in range(shape.n_layer):
        block = f"blk.{layer}"
        attended = _plain_attention(building, net.norm(x, f"{block}.attn_norm", layer), layer, positions)
        other = mamba2(
            net, states, building.states[layer], block, net.norm(x, f"{block}.attn_norm", layer), sizes, layer
        )
        residual = t.add(t.add(attended, other), x)
        (residual,) = building.skip_others(layer, ids, residual)
        x = t.add(net.feed_forward(net.norm(residual, f"{block}.ffn_norm", layer), f"{block}.ffn"), residual)
    building.head(x)


def jamba(building: Building) -> None:
    """Record the graph of Jamba: Mamba, attention in some layers, experts in some."""
    net, shape, sizes = building.net, building.shape, building.state_sizes()
    x = net.token_embeddings()
    states, ids = state_inputs(net), net.output_ids()
    for layer in range(shape.n_layer):
        block, residual = f"blk.{layer}", x
        x = net.norm(x, f"{block}.attn_norm", layer)
        if layer in building.states:
            x = mamba(net, states, building.states[layer], block, x, sizes, layer)
        else:
            x = _plain_attention(building, x, layer, None)
        x, residual = building.skip_others(layer, ids, x, residual)
        residual = t.add(residual, x)
        x = net.norm(residual, f"{block}.ffn_norm", layer)
        dense = not net.w(f"{block}.ffn_gate_inp")
        x = net.feed_forward(x, f"{block}.ffn") if dense else mixture(net, x, f"{block}.ffn", PLAIN(shape, layer))
        x = t.add(residual, x)
    building.head(x)


def mamba_model(building: Building) -> None:
    """Record the graph of Mamba."""
    _stacked(building, mamba)


def mamba2_model(building: Building) -> None:
    """Record the graph of Mamba 2."""
    _stacked(building, mamba2)


def _stacked(building: Building, mixer: Callable[..., Tensor]) -> None:
    """Record a graph whose layers are a mixer and nothing else."""
    net, shape, sizes = building.net, building.shape, building.state_sizes()
    x = net.token_embeddings()
    states, ids = state_inputs(net), net.output_ids()
    for layer in range(shape.n_layer):
        block, residual = f"blk.{layer}", x
        x = net.norm(x, f"{block}.attn_norm", layer)
        x = mixer(net, states, building.states[layer], block, x, sizes, layer)
        x, residual = building.skip_others(layer, ids, x, residual)
        x = t.add(x, residual)
    building.head(x)


def granite_hybrid(building: Building) -> None:
    """Record the graph."""
    net, shape, sizes = building.net, building.shape, building.state_sizes()
    x = net.token_embeddings(factor=bool(shape.number("embedding_scale")))
    states, ids = state_inputs(net), net.output_ids()
    positions = net.positions() if shape.values.get("rope.scaling.finetuned", True) else None
    scaled = bool(shape.number("residual_scale"))
    for layer in range(shape.n_layer):
        block, residual = f"blk.{layer}", x
        x = net.norm(x, f"{block}.attn_norm", layer)
        if layer in building.states:
            x = mamba2(net, states, building.states[layer], block, x, sizes, layer)
        else:
            x = _plain_attention(building, x, layer, positions)
        x, residual = building.skip_others(layer, ids, x, residual)
        residual = t.add(t.scale(x) if scaled else x, residual)
        x = net.norm(residual, f"{block}.ffn_norm", layer)
        x = _with_shared(building, x, layer)
        x = t.add(t.scale(x) if scaled else x, residual)
    building.head(x, scaled=bool(shape.number("logit_scale")))


def _plain_attention(building: Building, x: Tensor, layer: int, positions: Tensor | None) -> Tensor:
    net, shape, block = building.net, building.shape, f"blk.{layer}"
    q, k, v = net.qkv(x, block, shape.head_k, shape.n_head[layer], shape.n_head_kv[layer])
    if positions:
        q, k = t.rope(q, positions), t.rope(k, positions)
    return net.linear_with_bias(building.attend(layer, q, k, v), f"{block}.attn_output")


def _with_shared(building: Building, x: Tensor, layer: int) -> Tensor:
    net, name = building.net, f"blk.{layer}.ffn"
    if not net.w(f"{name}_gate_inp"):
        return net.feed_forward(x, name)
    out = mixture(net, x, name, NORMALIZED(building.shape, layer))
    return t.add(out, net.feed_forward(x, name, suffix="_shexp")) if net.w(f"{name}_up_shexp") else out


def nemotron_h(building: Building) -> None:
    """Record the graph: each layer is one of Mamba 2, attention and feed-forward network."""
    net, shape, sizes = building.net, building.shape, building.state_sizes()
    x = net.token_embeddings()
    states, ids = state_inputs(net), net.output_ids()
    for layer in range(shape.n_layer):
        block, residual = f"blk.{layer}", x
        x = net.norm(x, f"{block}.attn_norm", layer)
        if layer in building.states:
            x = mamba2(net, states, building.states[layer], block, x, sizes, layer)
        elif layer in building.attention_caches:
            x = _plain_attention(building, x, layer, None)
        else:
            x = _squared(building, x, layer)
        x = t.add(x, residual)
    x = net.norm(x, "output_norm")
    x.output = True
    x = t.get_rows(x, ids)
    building.finish(x, building.logits(x))


def _squared(building: Building, x: Tensor, layer: int) -> Tensor:
    """Feed-forward networks of Nemotron-H: squared ReLU, without a gate."""
    net, name = building.net, f"blk.{layer}.ffn"
    if not net.w(f"{name}_gate_inp"):
        return net.feed_forward(x, name, squared=True)
    latent = net.linear(x, f"{name}_latent_down") if net.w(f"{name}_latent_down") else x
    logits = net.linear(x, f"{name}_gate_inp")
    out = mixture(net, latent, name, SIGMOID(building.shape, layer), logits=logits)
    if net.w(f"{name}_latent_up"):
        out = net.linear(out, f"{name}_latent_up")
    return t.add(out, net.feed_forward(x, name, suffix="_shexp", squared=True))
