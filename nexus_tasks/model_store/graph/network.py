"""A graph in the making, and the parts that all of llama.cpp's models are built of: inputs, norms, matrices, networks.

    net = Network(Batch(...), weights, placement.layers.__getitem__)
    x = net.token_embeddings()
    x = net.feed_forward(net.norm(x, "blk.0.ffn_norm"), "blk.0.ffn")
    net.graph.expand(x)

A network records one graph for one batch; its weights and caches lie on the devices that the plan gives them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nexus_tasks.core.errors import UsageError
from nexus_tasks.hostlib.tensor_types import TENSOR_TYPES

from . import tensors as t
from .tensors import F32, I32, I64, Graph, Tensor

Weights = Callable[[str], "Tensor | None"]


@dataclass(frozen=True)
class Batch:
    """The batch that memory is reserved for, and what of the context its graph depends on."""

    n_tokens: int
    n_seqs: int
    n_outputs: int
    n_embd: int
    streams: int
    """Of the attention caches: 1 when they are unified."""
    flash_attention: bool
    offload_kqv: bool
    pinned: bool
    """Whether norms and attention are kept where their layer is; llama.cpp forgets that when it only measures."""
    host: int
    """The host's number among the devices."""
    mixed: bool = True
    """Whether a batch may hold tokens and embeddings at once, which newer releases allow for."""


class Network:
    """A graph in the making."""

    def __init__(self, batch: Batch, weights: Weights, layer_device: Callable[[int], int]) -> None:
        self.batch, self.weights, self.layer_device = batch, weights, layer_device
        self.graph = Graph()

    # ---- Weights

    def w(self, name: str) -> Tensor | None:
        """A tensor of the model, by its name without ``.weight``; None where the model has none."""
        return self.weights(name + ".weight")

    def need(self, name: str) -> Tensor:
        """A tensor that the architecture can't be without."""
        return self.required(name + ".weight")

    def required(self, name: str) -> Tensor:
        """The same by its whole name. Raises UsageError where the model has none."""
        found = self.weights(name)
        if found is None:
            raise UsageError(f"the model lacks the tensor {name}", hint="take another conversion of the model")
        return found

    def bias(self, name: str) -> Tensor | None:
        return self.weights(name + ".bias")

    def rope_factors(self, layer: int) -> Tensor | None:
        """The factors of RoPE, of which each device with layers has a copy; the long ones stand for the short."""
        names = (f"rope_{kind}.weight" for kind in ("freqs", "factors_long"))
        return next((found for name in names if (found := self.weights(f"{name}#{layer}"))), None)

    # ---- Inputs

    def token_embeddings(self, *, scaled: bool = False, factor: bool = False, width: int = 0) -> Tensor:
        """build_inp_embd: from tokens, embeddings or a mixture, of which the first is computed.

        ``scaled``: token rows are multiplied by an input; ``factor``: all are by a number; ``width``: of embeddings,
        where those of images are wider than those of tokens.
        """
        n_tokens, n_embd = self.batch.n_tokens, width or self.batch.n_embd
        table = self.need("token_embd")
        embeddings = t.graph_input(F32, n_embd, n_tokens)

        def rows() -> Tensor:
            x = t.get_rows(table, t.graph_input(I32, n_tokens))
            return t.pad(x, n_embd - x.ne[0]) if n_embd > x.ne[0] else x

        x = rows()
        self.graph.expand(x)
        self.graph.expand(embeddings)
        if self.batch.mixed:
            both = t.graph_input(F32, n_embd, n_tokens)
            self.graph.expand(t.set_rows(t.like("dup", both), rows(), t.graph_input(I64, n_tokens)))
        if factor:
            x = t.scale(x)
        if scaled:
            x = t.mul(x, t.graph_input(F32, 1, n_tokens))
        return self.graph.expand(x)

    def positions(self, per_token: int = 1) -> Tensor:
        return t.graph_input(I32, self.batch.n_tokens * per_token)

    def output_ids(self) -> Tensor:
        return t.graph_input(I32, self.batch.n_outputs)

    # ---- Layers

    def norm(self, x: Tensor, name: str | None, layer: int = -1, *, rms: bool = True) -> Tensor:
        """build_norm: with the weight, which a few models have without that ending, and the bias of the model."""
        weight, bias = (self.w(name) or self.weights(name), self.bias(name)) if name else (None, None)
        x = t.like("rms_norm" if rms else "norm", x)
        if (weight or bias) and layer >= 0 and self.batch.pinned:
            x.backend = self.layer_device(layer)
        if weight:
            x = t.mul(x, weight)
        return t.add(x, bias) if bias else x

    def linear(self, x: Tensor, name: str) -> Tensor:
        """build_lora_mm: with the scale that NVFP4 has beside a weight."""
        x = t.mul_mat(self.need(name), x)
        factor = self.weights(name + ".scale")
        return t.mul(x, factor) if factor else x

    def linear_with_bias(self, x: Tensor, name: str) -> Tensor:
        x = self.linear(x, name)
        bias = self.bias(name)
        return t.add(x, bias) if bias else x

    def qkv(self, x: Tensor, block: str, head: int, n_head: int, n_head_kv: int, head_v: int = 0) -> list[Tensor]:
        """build_qkv: fused or not, in heads."""
        widths = [(head, n_head), (head, n_head_kv), (head_v or head, n_head_kv)]
        n_tokens = x.ne[1]
        if self.w(f"{block}.attn_qkv"):
            fused = self.linear_with_bias(x, f"{block}.attn_qkv")
            size = TENSOR_TYPES[fused.type].block_bytes
            return [t.view(fused, (width, count, n_tokens), (width * size, fused.nb[1])) for width, count in widths]
        parts = [self.linear_with_bias(x, f"{block}.attn_{part}") for part in "qkv"]
        return [t.reshape(part, width, count, n_tokens) for part, (width, count) in zip(parts, widths, strict=True)]

    def feed_forward(
        self, x: Tensor, name: str, *, fused: bool = False, suffix: str = "", squared: bool = False
    ) -> Tensor:
        """build_ffn: gated where the model has a gate; ``fused``: both halves in one tensor; ``squared``: relu²."""
        up = self.linear_with_bias(x, f"{name}_up{suffix}")
        if self.w(f"{name}_gate{suffix}"):
            x = t.gated(self.linear_with_bias(x, f"{name}_gate{suffix}"), up)
        elif fused:
            x = t.gated(up)
        else:
            x = t.unary(up)
            if squared:
                x = t.like("sqr", x)
        return self.linear_with_bias(x, f"{name}_down{suffix}")
