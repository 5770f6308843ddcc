"""Mixtures of experts, as build_moe_ffn of llama-graph.cpp builds them."""

from __future__ import annotations

from dataclasses import dataclass

from . import tensors as t
from .network import Network
from .tensors import Tensor


@dataclass(frozen=True)
class Routing:
    """The choice of experts, and what its weights go through."""

    n_expert: int
    n_used: int
    gating: str = "softmax"
    """softmax, sigmoid, or softmax_weight: of the chosen ones alone."""
    normalized: bool = False
    scaled: bool = False
    groups: int = 0
    groups_used: int = 0
    weight_before: bool = False
    """Weights are applied to what goes into the experts (Llama 4)."""
    activation: str = "gated"
    """gated, relu_squared."""


def mixture(
    net: Network, x: Tensor, name: str, routing: Routing, *, logits: Tensor | None = None, clamped: bool = False
) -> Tensor:
    """The sum of the chosen experts' outputs.

    ``name``: that of the feed-forward network, as in ``blk.0.ffn``.
    """
    n_embd, n_tokens = x.ne[0], x.ne[1]
    chosen, weights = _choice(net, x, name, routing, logits)
    net.graph.expand(weights)
    x = t.reshape(x, n_embd, 1, n_tokens)
    if routing.weight_before:
        x = t.mul(t.repeat(x, n_embd, routing.n_used, n_tokens), weights)
    x = _activated(net, x, name, chosen, routing, clamped=clamped)
    x = _linear(net, x, f"{name}_down_exps", chosen)
    if not routing.weight_before:
        x = t.mul(x, weights)
    net.graph.expand(x)
    parts = [t.view(x, (n_embd, n_tokens), (x.nb[2],)) for _ in range(routing.n_used)]
    for part in parts:
        net.graph.expand(part)
    total = parts[0]
    for part in parts[1:]:
        total = net.graph.expand(t.add(total, part))
    return total if routing.n_used > 1 else t.cont(total)


def _choice(net: Network, x: Tensor, name: str, routing: Routing, logits: Tensor | None) -> tuple[Tensor, Tensor]:
    """The ids of the experts of each token, and their weights."""
    n_tokens, used = x.ne[1], routing.n_used
    if logits is None:
        logits = net.linear_with_bias(x, f"{name}_gate_inp")
    if routing.gating == "softmax":
        probabilities = t.soft_max(logits)
    else:
        probabilities = logits if routing.gating == "softmax_weight" else t.unary(logits)
    selection = probabilities
    bias = net.bias(f"{name.replace('ffn', 'exp_probs_b')}")
    if bias:
        selection = t.add(probabilities, bias)
    if routing.weight_before:
        selection = logits
    if routing.groups > 1:
        selection = _within_groups(selection, routing, n_tokens)
    chosen = t.top_k(selection, used)
    weights = t.get_rows(t.reshape(probabilities, 1, routing.n_expert, n_tokens), chosen)
    if routing.gating == "softmax_weight":
        weights = t.reshape(t.soft_max(t.reshape(weights, used, n_tokens)), 1, used, n_tokens)
    if routing.normalized:
        weights = t.reshape(weights, used, n_tokens)
        weights = t.like("div", weights, t.like("clamp", t.sum_rows(weights)))
        weights = t.reshape(weights, 1, used, n_tokens)
    return chosen, t.scale(weights) if routing.scaled else weights


def _within_groups(selection: Tensor, routing: Routing, n_tokens: int) -> Tensor:
    per_group = routing.n_expert // routing.groups
    groups = t.reshape(selection, per_group, routing.groups, n_tokens)
    best = t.top_k(groups, 2)
    scores = t.get_rows(t.reshape(groups, 1, *groups.ne[:3]), best)
    scores = t.reshape(t.sum_rows(t.reshape(scores, *scores.ne[1:])), routing.groups, n_tokens)
    kept = t.top_k(scores, routing.groups_used)
    rows = t.get_rows(groups, kept)
    return t.reshape(t.set_rows(t.like("fill", groups), rows, kept), routing.n_expert, n_tokens)


def _activated(net: Network, x: Tensor, name: str, chosen: Tensor, routing: Routing, *, clamped: bool) -> Tensor:
    if net.w(f"{name}_gate_up_exps"):
        both = _linear(net, x, f"{name}_gate_up_exps", chosen)
        half = (both.ne[0] // 2, *both.ne[1:3])
        gate, up = (t.view(both, half, both.nb[1:3]) for _ in range(2))
        return t.gated(gate, up)
    up = _linear(net, x, f"{name}_up_exps", chosen)
    if not net.w(f"{name}_gate_exps"):
        active = t.unary(up)
        return t.like("sqr", active) if routing.activation == "relu_squared" else active
    gate = _linear(net, x, f"{name}_gate_exps", chosen)
    if clamped:
        up = t.like("clamp", up)
        return t.mul(t.like("clamp", t.unary(gate)), up)
    return t.gated(gate, up)


def _linear(net: Network, x: Tensor, name: str, chosen: Tensor) -> Tensor:
    """build_lora_mm_id, with the scale of NVFP4 and the bias that the model has."""
    factor, bias = net.weights(name + ".scale"), net.bias(name)
    n_tokens = x.ne[2]
    x = t.mul_mat_id(net.need(name), x, chosen)
    if factor:
        n_expert = factor.ne[0]
        x = t.mul(x, t.get_rows(t.repeat(t.reshape(factor, 1, n_expert, 1), 1, n_expert, n_tokens), chosen))
    return t.like("add_id", x, bias, chosen) if bias else x
