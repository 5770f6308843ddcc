"""The architectures that the memory plan covers, by the names that headers have for them.

rules_of(shape)          UsageError, with the name, for any other
"""

from __future__ import annotations

from nexus_tasks.core.errors import UsageError
from nexus_tasks.hostlib.model_shape import ModelShape
from nexus_tasks.hostlib.tensor_types import TENSOR_TYPES

from . import delta_nets, state_spaces
from .encoders import bert, gemma_embedding
from .gemma4 import gemma4, has_cache
from .mla import deepseek2
from .rules import Rules, Window
from .transformers import Transformer, routing

SOFTMAX = routing(normalized=True)
UNNORMALIZED = routing(normalized=False)
BY_METADATA = routing(normalized=None)
SIGMOID = routing("sigmoid", normalized=None)


def every_fourth_without(shape: ModelShape, layer: int, windowed: bool) -> bool:
    """RoPE in all layers but every fourth."""
    return (layer + 1) % 4 != 0


def in_windows(shape: ModelShape, layer: int, windowed: bool) -> bool:
    """RoPE in layers with a window."""
    return windowed


def in_windows_if_any(shape: ModelShape, layer: int, windowed: bool) -> bool:
    """RoPE in layers with a window, and in all of models without."""
    return windowed or shape.n_layer != EXAONE_WITH_WINDOWS


def unless_fine_tuned_away(shape: ModelShape, layer: int, windowed: bool) -> bool:
    """RoPE unless the metadata says that there is none."""
    return shape.values.get("rope.scaling.finetuned", True) is not False


def four(shape: ModelShape) -> int:
    """Four positions a token."""
    return 4


def four_with_sections(shape: ModelShape) -> int:
    """Four positions a token where RoPE is in sections."""
    sections = shape.values.get("rope.dimension_sections")
    return 4 if isinstance(sections, tuple) and len(sections) > 1 and sections[0] and sections[1] else 1


EXAONE_WITH_WINDOWS = 64  # layers
PLAIN = Transformer()
QWEN3 = Transformer(query_norm="heads", routing=SOFTMAX)
GRANITE = Transformer(
    embedding="by metadata", residual_scale=True, logit_scale=True, rope=unless_fine_tuned_away, routing=SOFTMAX,
    shared_experts="added",
)  # fmt: skip

NEMOTRON = Rules(
    state_spaces.nemotron_h,
    recurrent=state_spaces.without_kv_heads_and_ffn,
    attends=state_spaces.attends_of_nemotron,
    rollback=True,
)

ARCHITECTURES: dict[str, Rules] = {
    # Llama and its like
    "llama": Rules(Transformer(routing=SOFTMAX)),
    "mistral3": Rules(Transformer(routing=SOFTMAX, temperature="metadata")),
    "llama4": Rules(
        Transformer(
            rope=every_fourth_without, temperature="without rope", weightless_norm=True, shared_experts="added",
            routing=routing("sigmoid", normalized=False, weight_before=True),
        ),
        Window(4, size=8192, fixed=True),
    ),
    "smollm3": Rules(Transformer(rope=every_fourth_without)),
    "arcee": Rules(Transformer(squared_ffn=True)),
    "nemotron": Rules(Transformer(rms=False, squared_ffn=True)),
    "starcoder2": Rules(Transformer(rms=False)),
    "deepseek": Rules(Transformer(routing=UNNORMALIZED, shared_experts="added")),
    "seed_oss": Rules(Transformer(second_norm="post_attention_norm")),
    "exaone4": Rules(
        Transformer(
            attention_norm=False, second_norm="", query_norm="heads", rope=in_windows_if_any,
            attention_post_norm="post_attention_norm", ffn_post_norm="post_ffw_norm",
        ),
        Window(4, size=4096, only_layers=EXAONE_WITH_WINDOWS),
    ),
    "granite": Rules(GRANITE),
    "granitemoe": Rules(GRANITE),
    "olmo2": Rules(
        Transformer(
            attention_norm=False, second_norm="", query_norm="rows",
            attention_post_norm="post_attention_norm", ffn_post_norm="post_ffw_norm",
        ),
        Window(4),
    ),
    "olmoe": Rules(Transformer(query_norm="rows", routing=UNNORMALIZED)),
    "phi3": Rules(Transformer(query_scale=True, fused_ffn=True, routing=SOFTMAX)),
    "command-r": Rules(Transformer(rms=False, parallel=True, query_norm="heads", logit_scale=True)),
    "cohere2": Rules(Transformer(rms=False, parallel=True, rope=in_windows, logit_scale=True), Window(4)),
    "glm4": Rules(
        Transformer(
            fused_ffn=True, attention_post_norm="post_attention_norm", ffn_post_norm="post_ffw_norm",
            positions=four_with_sections,
        )
    ),
    "glm4moe": Rules(
        Transformer(
            second_norm="post_attention_norm", query_norm="heads", routing=SIGMOID, shared_experts="added",
            positions=four_with_sections,
        )
    ),
    "dots1": Rules(Transformer(query_norm="heads", routing=BY_METADATA, shared_experts="added")),
    "ernie4_5": Rules(PLAIN),
    "ernie4_5-moe": Rules(Transformer(routing=SOFTMAX, shared_experts="added")),
    "hunyuan-moe": Rules(Transformer(query_norm="after", routing=SOFTMAX, shared_experts="added")),
    "hunyuan-dense": Rules(Transformer(query_norm="after")),
    "bailingmoe2": Rules(Transformer(query_norm="heads", routing=BY_METADATA, shared_experts="added")),
    "minimax-m2": Rules(Transformer(query_norm="rows", routing=routing("sigmoid", normalized=True))),
    # Qwen
    "qwen2": Rules(PLAIN),
    "qwen2vl": Rules(Transformer(positions=four)),
    "qwen2moe": Rules(Transformer(routing=UNNORMALIZED, shared_experts="gated")),
    "qwen3": Rules(QWEN3),
    "qwen3moe": Rules(QWEN3),
    "qwen3vl": Rules(Transformer(query_norm="heads", positions=four, deepstack=True)),
    "qwen3vlmoe": Rules(Transformer(query_norm="heads", positions=four, deepstack=True, routing=SOFTMAX)),
    # Gemma
    "gemma": Rules(Transformer(embedding="factor", query_scale=True)),
    "gemma2": Rules(
        Transformer(
            embedding="factor", query_scale=True, attention_soft_cap=True, logit_soft_cap=True,
            attention_post_norm="post_attention_norm", ffn_post_norm="post_ffw_norm",
        ),
        Window(2, size=4096),
    ),
    "gemma3": Rules(
        Transformer(
            embedding="scaled", query_norm="heads", query_scale=True, logit_soft_cap=True,
            attention_post_norm="post_attention_norm", ffn_post_norm="post_ffw_norm",
        ),
        Window(6),
    ),
    # gpt-oss
    "gpt-oss": Rules(
        Transformer(
            sinks=True, second_norm="post_attention_norm", outputs_late=True,
            routing=routing("softmax_weight", normalized=False),
        ),
        Window(2),
    ),
    "gemma4": Rules(gemma4, Window(5), attends=has_cache),
    # Encoders
    "gemma-embedding": Rules(gemma_embedding, Window(6), has_cache=False, causal=False),
    "bert": Rules(bert, has_cache=False, causal=False),
    "nomic-bert": Rules(bert, has_cache=False, causal=False),
    "nomic-bert-moe": Rules(bert, has_cache=False, causal=False),
    # Compressed keys and values
    "deepseek2": Rules(deepseek2),
    # Recurrent layers
    "qwen3next": Rules(delta_nets.qwen3next, recurrent=delta_nets.between_full_attention),
    "qwen35": Rules(delta_nets.qwen35, recurrent=delta_nets.between_full_attention, rollback=True),
    "qwen35moe": Rules(delta_nets.qwen35, recurrent=delta_nets.between_full_attention, rollback=True),
    "lfm2": Rules(state_spaces.lfm2, recurrent=state_spaces.without_kv_heads, rollback=True),
    "lfm2moe": Rules(state_spaces.lfm2, recurrent=state_spaces.without_kv_heads, rollback=True),
    "granitehybrid": Rules(state_spaces.granite_hybrid, recurrent=state_spaces.without_kv_heads),
    "nemotron_h": NEMOTRON,
    "nemotron_h_moe": NEMOTRON,
    "falcon-h1": Rules(
        state_spaces.falcon_h1, recurrent=state_spaces.all_layers, attends=state_spaces.attends_everywhere
    ),
    "jamba": Rules(state_spaces.jamba, recurrent=state_spaces.without_kv_heads),
    "mamba": Rules(state_spaces.mamba_model, recurrent=state_spaces.all_layers),
    "mamba2": Rules(state_spaces.mamba2_model, recurrent=state_spaces.all_layers),
}  # fmt: skip


class NotCovered(UsageError):
    """A model that there are no rules for."""


def rules_of(shape: ModelShape) -> Rules:
    """The rules of a model.

    Raises NotCovered where its architecture, or this model of it, is not covered.
    """
    rules = ARCHITECTURES.get(shape.architecture)
    why = f"architecture {shape.architecture}" if rules is None else rules.supported(shape) if rules.supported else ""
    unknown = {tensor.type: tensor.name for tensor in shape.tensors.values() if tensor.type not in TENSOR_TYPES}
    if unknown and not why:
        number, name = min(unknown.items())
        why = f"tensors of type {number}, as {name!r}"
    if rules is None or why:
        raise NotCovered(
            f"the memory plan's rules don't cover {why} ({shape.files[0].name})",
            hint="docs/memory.md lists what they cover; --engine llama.cpp asks llama.cpp itself",
        )
    return rules
