"""A graph in the making, with what its architecture needs of the model: numbers by layer, caches, shared inputs."""

from __future__ import annotations

from dataclasses import dataclass, field

from nexus_tasks.hostlib.model_shape import ModelShape

from ..graph import tensors as t
from ..graph.attention import AttentionInputs, LayerCache, attend, attention_inputs
from ..graph.network import Network
from ..graph.states import StateSizes
from ..graph.tensors import Tensor


@dataclass
class Building:
    """The material of a builder, which records a graph."""

    net: Network
    shape: ModelShape
    attention_caches: dict[int, LayerCache]
    states: dict[int, tuple[Tensor, ...]]
    kinds: tuple[int, int]
    """Types of K and V."""
    windows: tuple[bool, ...]
    """True for each layer with a sliding window; nothing where the model has none, and so one kind of cache."""
    snapshots: int = 1
    """States that recurrent layers keep of each sequence."""
    pooling: str | None = None
    """The pooling of embeddings; None where logits are served."""
    temperature: Tensor | None = None
    """What Q is multiplied by."""
    inputs: dict[str, AttentionInputs] = field(default_factory=dict)

    def inputs_of(self, layer: int) -> AttentionInputs:
        """The inputs of a layer's attention, made where the first layer asks for them."""
        cache = self.attention_caches[layer]
        if cache.group not in self.inputs:
            self.inputs[cache.group] = attention_inputs(self.net, cache, self.kinds)
        return self.inputs[cache.group]

    def attend(
        self, layer: int, q: Tensor, k: Tensor | None, v: Tensor | None, *,
        sinks: Tensor | None = None, v_mla: Tensor | None = None, soft_cap: bool = False,
    ) -> Tensor:  # fmt: skip
        """Attention of a layer to its cache, without the output projection."""
        return attend(
            self.net, self.inputs_of(layer), self.attention_caches[layer], q, k, v,
            v_first=not self.windows, sinks=sinks, v_mla=v_mla, soft_cap=soft_cap,
        )  # fmt: skip

    def state_sizes(self) -> StateSizes:
        """The sizes of the state space layers."""
        number = self.shape.integer
        return StateSizes(
            kernel=number("ssm.conv_kernel"),
            inner=number("ssm.inner_size"),
            state=number("ssm.state_size"),
            groups=number("ssm.group_count"),
            heads=number("ssm.time_step_rank"),
            snapshots=self.snapshots,
        )

    def skip_others(self, layer: int, ids: Tensor, *xs: Tensor) -> tuple[Tensor, ...]:
        """In the last layer, what goes on is only computed for the tokens whose logits are wanted."""
        return tuple(t.get_rows(x, ids) for x in xs) if layer == self.shape.n_layer - 1 else xs

    def head(
        self, x: Tensor, *, rms: bool = True, soft_cap: bool = False, scaled: bool = False, norm: str = "output_norm"
    ) -> None:
        """The last norm and the logits."""
        x = self.net.norm(x, norm, rms=rms)
        logits = self.logits(x)
        if soft_cap:
            logits = t.scale(t.unary(t.scale(logits)))
        if scaled:
            logits = t.scale(logits)
        self.finish(x, logits)

    def logits(self, x: Tensor) -> Tensor:
        """By the output matrix, or by the token embedding, whose copy on the output's device stands for it."""
        logits = t.mul_mat(self.net.w("output") or self.net.required("token_embd.weight#-1"), x)
        bias = self.net.bias("output")
        return t.add(logits, bias) if bias else logits

    def finish(self, x: Tensor, logits: Tensor | None = None) -> None:
        """End the graph: embeddings and logits stay, and where embeddings are served they are pooled."""
        outputs = [x] if logits is None else [x, logits]
        self.net.graph.expand(outputs[-1])
        if self.pooling is not None:
            pooled = self._projected(self._pooled(x, self.pooling))
            self.net.graph.expand(pooled)
            outputs.append(pooled)
        for one in outputs:
            one.output = True

    def _pooled(self, x: Tensor, pooling: str) -> Tensor:
        """build_pooling."""
        net = self.net
        if pooling == "none":
            return x
        if pooling == "mean":
            means = t.graph_input(t.F32, net.batch.n_tokens, net.batch.n_seqs)
            return t.mul_mat(t.cont(t.transpose(x)), means)
        x = t.get_rows(x, t.graph_input(t.I32, net.batch.n_seqs))
        if pooling != "rank":
            return x
        if net.w("cls"):
            x = t.unary(net.linear_with_bias(x, "cls"))
            x = net.norm(x, "cls.norm", rms=False) if net.w("cls.norm") else x
        if net.w("cls.output"):
            x = net.linear_with_bias(x, "cls.output")
        return t.soft_max(x) if self.shape.architecture in ("qwen3", "qwen3vl") else x

    def _projected(self, x: Tensor) -> Tensor:
        """build_dense_out."""
        for name in ("dense_2", "dense_3"):
            x = self.net.linear(x, name) if self.net.w(name) else x
        return x
