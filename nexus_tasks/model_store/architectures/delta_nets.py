"""Models whose recurrent layers are gated delta nets: Qwen3-Next and Qwen3.5.

Graphs of llama.cpp's src/models: qwen3next.cpp and qwen35.cpp, both with and without experts.
"""

from __future__ import annotations

from nexus_tasks.hostlib.model_shape import ModelShape

from ..graph import tensors as t
from ..graph.experts import mixture
from ..graph.states import StateInputs, StateSizes, delta_net, gathered, keep_convolution, state_inputs
from ..graph.tensors import Tensor
from .building import Building
from .transformers import routing

NORMALIZED = routing(normalized=True)


def between_full_attention(shape: ModelShape) -> tuple[bool, ...]:
    """All but every fourth layer, or as the metadata says."""
    listed = shape.values.get("attention.recurrent_layers")
    if isinstance(listed, tuple):
        return tuple(bool(one) for one in listed[: shape.n_layer_all])
    interval = shape.integer("full_attention_interval", 4) or 4
    return tuple(layer < shape.n_layer and (layer + 1) % interval != 0 for layer in range(shape.n_layer_all))


def qwen3next(building: Building) -> None:
    """Record the graph."""
    _delta_network(building, positions=1)


def qwen35(building: Building) -> None:
    """Record the graph."""
    _delta_network(building, positions=4)


def _delta_network(building: Building, positions: int) -> None:
    net, shape = building.net, building.shape
    x = net.token_embeddings()
    states = state_inputs(net)
    place, ids = net.positions(positions), net.output_ids()
    for layer in range(shape.n_layer):
        block, residual = f"blk.{layer}", x
        x = net.graph.expand(net.norm(x, f"{block}.attn_norm", layer))
        x = (
            _linear_attention(building, states, x, layer)
            if layer in building.states
            else _gated_attention(building, x, place, layer)
        )
        residual = t.add(x, residual)
        x = net.norm(residual, f"{block}.post_attention_norm", layer)
        x = t.add(_feed_forward(building, x, layer), residual)
    x = net.norm(x, "output_norm")
    x.output = True
    x = t.get_rows(x, ids)
    building.finish(x, building.logits(x))


def _feed_forward(building: Building, x: Tensor, layer: int) -> Tensor:
    net, name = building.net, f"blk.{layer}.ffn"
    if not net.w(f"{name}_gate_inp"):
        return net.feed_forward(x, name)
    out = mixture(net, x, name, NORMALIZED(building.shape, layer))
    if not net.w(f"{name}_up_shexp"):
        return out
    shared = net.feed_forward(x, name, suffix="_shexp")
    return t.add(out, t.mul(shared, t.unary(net.linear(x, f"{name}_gate_inp_shexp"))))


def _gated_attention(building: Building, x: Tensor, positions: Tensor, layer: int) -> Tensor:
    """Attention whose output is gated by a part of Q's projection."""
    net, shape, block = building.net, building.shape, f"blk.{layer}"
    head, heads, n_tokens = shape.head_k, shape.n_head[layer], x.ne[1]
    both = net.linear_with_bias(x, f"{block}.attn_q")
    both = t.reshape(both, head * 2, heads, n_tokens)
    q = t.view(both, (head, heads, n_tokens), both.nb[1:3])
    gate = t.cont(t.view(both, (head, heads, n_tokens), both.nb[1:3]), head * heads, n_tokens)
    k, v = (
        t.reshape(net.linear_with_bias(x, f"{block}.attn_{one}"), head, shape.n_head_kv[layer], n_tokens)
        for one in "kv"
    )
    q = t.rope(net.norm(q, f"{block}.attn_q_norm", layer), positions)
    k = t.rope(net.norm(k, f"{block}.attn_k_norm", layer), positions)
    x = building.attend(layer, q, k, v)
    return net.linear(t.mul(x, t.unary(gate)), f"{block}.attn_output")


def _linear_attention(building: Building, inputs: StateInputs, x: Tensor, layer: int) -> Tensor:
    """The gated delta net."""
    net, block, sizes = building.net, f"blk.{layer}", building.state_sizes()
    n_seqs = net.batch.n_seqs
    per_seq, v_heads, k_heads = net.batch.n_tokens // n_seqs, sizes.heads, sizes.groups
    head_v = sizes.inner // v_heads
    mixed, z = _projections(building, x, block, sizes)
    beta, gate = _decay(building, x, block, sizes)
    convolution, state = building.states[layer]
    joined = keep_convolution(net, inputs, convolution, mixed, sizes)
    old = t.reshape(gathered(net, inputs, state), head_v, head_v, v_heads, n_seqs)
    out = t.unary(t.ssm_conv(joined, net.need(f"{block}.ssm_conv1d")))
    row = t.row_bytes(t.F32, 2 * sizes.state * k_heads + head_v * v_heads)
    strides = (row, row * per_seq)
    q, k = (t.view(out, (sizes.state, k_heads, per_seq, n_seqs), (4 * sizes.state, *strides)) for _ in "qk")
    v = t.view(out, (head_v, v_heads, per_seq, n_seqs), (4 * head_v, *strides))
    q, k = (t.scale(t.like("rms_norm", one)) for one in (q, k))
    if building.shape.architecture == "qwen3next" and k_heads != v_heads:
        q, k = (_repeated(one, v_heads) for one in (q, k))
    out = delta_net(net, state, q, k, v, gate, beta, old, sizes.snapshots)
    out = net.norm(out, f"{block}.ssm_norm", layer)
    out = t.mul(out, t.unary(t.reshape(z, head_v, v_heads, per_seq, n_seqs)))
    out = net.linear(t.reshape(out, head_v * v_heads, per_seq, n_seqs), f"{block}.ssm_out")
    return t.reshape(out, building.shape.n_embd, per_seq * n_seqs)


def _repeated(x: Tensor, heads: int) -> Tensor:
    size, own, per_seq, n_seqs = x.ne
    many = t.repeat(t.reshape(x, size, 1, own, per_seq * n_seqs), size, heads // own, own, per_seq * n_seqs)
    return t.reshape(many, size, heads, per_seq, n_seqs)


def _projections(building: Building, x: Tensor, block: str, sizes: StateSizes) -> tuple[Tensor, Tensor]:
    """Q, K and V in one, and the gate of the output."""
    net, n_seqs = building.net, building.net.batch.n_seqs
    per_seq = net.batch.n_tokens // n_seqs
    if net.w(f"{block}.attn_qkv"):
        mixed = net.linear(x, f"{block}.attn_qkv")
        return t.reshape(mixed, mixed.ne[0], per_seq, n_seqs), net.linear(x, f"{block}.attn_gate")
    groups, head_v = sizes.groups, sizes.inner // sizes.heads
    per_group = head_v * sizes.heads // groups
    mixed = net.linear(x, f"{block}.ssm_in")
    mixed = t.reshape(mixed, 2 * sizes.state + 2 * per_group, groups, per_seq, n_seqs)
    q, k, v, z = (
        t.view(mixed, (width, groups, per_seq, n_seqs), mixed.nb[1:])
        for width in (sizes.state, sizes.state, per_group, per_group)
    )
    z = t.cont(z)
    q, k, v = (t.cont(one, one.ne[0] * groups, per_seq, n_seqs) for one in (q, k, v))
    return t.concat(t.concat(q, k, 0), v, 0), z


def _decay(building: Building, x: Tensor, block: str, sizes: StateSizes) -> tuple[Tensor, Tensor]:
    """Beta, and the gate of the state."""
    net, heads, n_seqs = building.net, sizes.heads, building.net.batch.n_seqs
    per_seq = net.batch.n_tokens // n_seqs
    if net.w(f"{block}.ssm_ba"):
        both = net.linear(x, f"{block}.ssm_ba")
        half = heads // sizes.groups
        both = t.reshape(both, 2 * half, sizes.groups, per_seq, n_seqs)
        b, a = (t.view(both, (half, sizes.groups, per_seq, n_seqs), both.nb[1:]) for _ in "ba")
        beta = t.reshape(t.unary(t.cont(b)), 1, heads, per_seq, n_seqs)
        alpha = t.cont(a, heads, per_seq, n_seqs)
    else:
        beta = t.unary(t.reshape(net.linear(x, f"{block}.ssm_beta"), 1, heads, per_seq, n_seqs))
        alpha = t.reshape(net.linear(x, f"{block}.ssm_alpha"), heads, per_seq, n_seqs)
    alpha = t.unary(t.add(alpha, net.required(f"{block}.ssm_dt.bias")))
    gate = t.mul(alpha, net.required(f"{block}.ssm_a"))
    return beta, t.reshape(gate, 1, heads, per_seq, n_seqs)
