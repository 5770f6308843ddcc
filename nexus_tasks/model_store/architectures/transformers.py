"""Decoders of attention and feed-forward layers: the graphs of llama.cpp's src/models that differ in a few points.

The points are the fields of ``Transformer``; each architecture is one of them (in ``table``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nexus_tasks.hostlib.model_shape import ModelShape

from ..graph import tensors as t
from ..graph.experts import Routing, mixture
from ..graph.tensors import Tensor
from .building import Building

GATINGS = {1: "softmax", 2: "sigmoid", 3: "softmax_weight"}


@dataclass(frozen=True)
class Transformer:
    """A decoder of equal layers. Each field says where it differs from Llama."""

    embedding: str = ""
    """"scaled": token rows are multiplied by an input (Gemma); "factor": everything by a number (Granite)."""
    rms: bool = True
    """False: layer norms."""
    attention_norm: bool = True
    """False: no norm before attention (OLMo 2)."""
    second_norm: str = "ffn_norm"
    """The norm before the feed-forward network."""
    attention_post_norm: str = ""
    ffn_post_norm: str = ""
    parallel: bool = False
    """Attention and feed-forward network both work on the first norm's result."""
    query_norm: str = ""
    """"heads": norms of Q and K by head, before RoPE; "rows": of all heads at once; "after": by head, after RoPE."""
    rope: Callable[[ModelShape, int, bool], bool] | None = None
    """Whether a layer has RoPE, from its number and whether it has a window; else all do."""
    temperature: str = ""
    """"metadata": Q is multiplied by an input where the metadata says so; "without rope": in layers without RoPE."""
    weightless_norm: bool = False
    """Norms of Q and K after RoPE without weights (Llama 4), in layers with RoPE."""
    query_scale: bool = False
    sinks: bool = False
    attention_soft_cap: bool = False
    logit_soft_cap: bool = False
    logit_scale: bool = False
    residual_scale: bool = False
    fused_ffn: bool = False
    """Gate and up are halves of one tensor."""
    squared_ffn: bool = False
    routing: Callable[[ModelShape, int], Routing] | None = None
    shared_experts: str = ""
    """"added", or "gated": a sigmoid decides how much."""
    outputs_late: bool = False
    """All tokens pass the last layer (gpt-oss)."""
    positions: Callable[[ModelShape], int] | None = None
    """Positions of a token, where that may be four."""
    deepstack: bool = False
    """The first layers get further embeddings of images added."""

    def __call__(self, building: Building) -> None:
        """Record the graph."""
        net, shape = building.net, building.shape
        factor = self.embedding == "factor" or (
            self.embedding == "by metadata" and bool(shape.number("embedding_scale"))
        )
        stacked = shape.integer("n_deepstack_layers") if self.deepstack else 0
        whole = net.token_embeddings(
            scaled=self.embedding == "scaled", factor=factor, width=shape.n_embd * (1 + stacked)
        )
        x = t.view(whole, (shape.n_embd, whole.ne[1]), (whole.nb[1],)) if stacked else whole
        positions = net.positions(self.positions(shape) if self.positions else 1)
        self._temperature(building)
        for layer in building.attention_caches:  # the inputs of both caches are made before the layers
            building.inputs_of(layer)
        ids = net.output_ids()
        for layer in range(shape.n_layer):
            x = self._layer(building, x, positions, ids, layer)
            if layer < stacked:
                x = t.add(x, t.view(whole, (shape.n_embd, whole.ne[1]), (whole.nb[1],)))
        if self.outputs_late:
            x.output = True
            x = t.get_rows(x, ids)
        scaled = self.logit_scale and bool(shape.number("logit_scale"))
        building.head(x, rms=self.rms, soft_cap=self.logit_soft_cap and self._soft_capped(shape), scaled=scaled)

    @staticmethod
    def _soft_capped(shape: ModelShape) -> bool:
        return bool(shape.number("final_logit_softcapping", 30 if shape.architecture == "gemma2" else 0))

    def _temperature(self, building: Building) -> None:
        wanted = self.temperature == "without rope" or (
            self.temperature == "metadata" and building.shape.number("attention.temperature_scale")
        )
        if wanted:
            building.temperature = t.graph_input(t.F32, 1, 1, building.net.batch.n_tokens)

    def _layer(self, building: Building, x: Tensor, positions: Tensor, ids: Tensor, layer: int) -> Tensor:
        net, block = building.net, f"blk.{layer}"
        residual = x
        normed = net.norm(x, f"{block}.attn_norm", layer, rms=self.rms) if self.attention_norm else x
        x = self._attention(building, normed, positions, layer)
        if not self.outputs_late:
            skipped = (x, residual, normed) if self.parallel else (x, residual)
            x, residual, *rest = building.skip_others(layer, ids, *skipped)
            normed = rest[0] if rest else normed
        if self.parallel:
            return t.add(t.add(self._feed_forward(building, normed, layer), residual), x)
        residual_scale = self.residual_scale and bool(building.shape.number("residual_scale"))
        if self.attention_post_norm:
            x = net.norm(x, f"{block}.{self.attention_post_norm}", layer, rms=self.rms)
        if residual_scale:
            x = t.scale(x)
        residual = t.add(x, residual)
        x = net.norm(residual, f"{block}.{self.second_norm}", layer, rms=self.rms) if self.second_norm else residual
        x = self._feed_forward(building, x, layer)
        if self.ffn_post_norm:
            x = net.norm(x, f"{block}.{self.ffn_post_norm}", -1 if self.embedding == "scaled" else layer, rms=self.rms)
        if residual_scale:
            x = t.scale(x)
        return t.add(x, residual)

    def _attention(self, building: Building, x: Tensor, positions: Tensor, layer: int) -> Tensor:
        net, shape, block = building.net, building.shape, f"blk.{layer}"
        cache = building.attention_caches[layer]
        q, k, v = self._heads(building, x, layer)
        rope = self.rope is None or self.rope(shape, layer, cache.group == "swa")
        if rope:
            factors = net.rope_factors(layer)
            q, k = t.rope(q, positions, factors), t.rope(k, positions, factors)
        if building.temperature and not (rope and self.temperature == "without rope"):
            q = t.mul(q, building.temperature)
        if self.weightless_norm and rope and shape.integer("block_count") != 48:
            q, k = t.like("rms_norm", q), t.like("rms_norm", k)
        if self.query_norm == "after":
            q, k = net.norm(q, f"{block}.attn_q_norm", layer), net.norm(k, f"{block}.attn_k_norm", layer)
        if self.query_scale:
            q = t.scale(q)
        sinks = net.w(f"{block}.attn_sinks") if self.sinks else None
        x = building.attend(layer, q, k, v, sinks=sinks, soft_cap=self.attention_soft_cap)
        return net.linear_with_bias(x, f"{block}.attn_output")

    def _heads(self, building: Building, x: Tensor, layer: int) -> list[Tensor]:
        net, shape, block = building.net, building.shape, f"blk.{layer}"
        cache = building.attention_caches[layer]
        sizes = (cache.head_k, shape.n_head[layer], shape.n_head_kv[layer])
        if self.query_norm == "rows":
            parts = [net.linear_with_bias(x, f"{block}.attn_{part}") for part in "qkv"]
            parts[0] = net.norm(parts[0], f"{block}.attn_q_norm", layer)
            parts[1] = net.norm(parts[1], f"{block}.attn_k_norm", layer)
            counts = (sizes[1], sizes[2], sizes[2])
            return [t.reshape(part, part.ne[0] // n, n, x.ne[1]) for part, n in zip(parts, counts, strict=True)]
        q, k, v = net.qkv(x, block, *sizes, head_v=cache.head_v)
        if self.query_norm == "heads" and net.w(f"{block}.attn_q_norm"):
            q = net.norm(q, f"{block}.attn_q_norm", layer, rms=self.rms)
            k = net.norm(k, f"{block}.attn_k_norm", layer, rms=self.rms)
        return [q, k, v]

    def _feed_forward(self, building: Building, x: Tensor, layer: int) -> Tensor:
        net, name = building.net, f"blk.{layer}.ffn"
        if self.routing is None or not net.w(f"{name}_gate_inp"):
            return net.feed_forward(x, name, fused=self.fused_ffn, squared=self.squared_ffn)
        out = mixture(net, x, name, self.routing(building.shape, layer))
        if not self.shared_experts or not net.w(f"{name}_up_shexp"):
            return out
        shared = net.feed_forward(x, name, suffix="_shexp")
        if self.shared_experts == "gated":
            share = net.linear(x, f"{name}_gate_inp_shexp")
            shared = t.mul(shared, t.like("div", t.unary(share), share))
        return t.add(out, shared)


def routing(
    gating: str = "softmax", *, normalized: bool | None = None, weight_before: bool = False
) -> Callable[[ModelShape, int], Routing]:
    """The choice of experts, from a model's metadata.

    Args:
        gating: the function, where the metadata names none.
        normalized: whether the weights are made to add up to 1; None for what the metadata says.
    """

    def of(shape: ModelShape, layer: int) -> Routing:
        factor = shape.number("expert_weights_scale")
        named = GATINGS.get(shape.integer("expert_gating_func"), gating)
        return Routing(
            n_expert=shape.n_expert,
            n_used=shape.n_expert_used[layer],
            gating=named,
            normalized=bool(shape.values.get("expert_weights_norm")) if normalized is None else normalized,
            scaled=factor not in (0, 1),
            groups=shape.integer("expert_group_count"),
            groups_used=shape.integer("expert_group_used_count"),
            weight_before=weight_before,
        )

    return of
