"""Models for plans of memory, by name: five as they are, and one with few layers of each architecture of the rules."""

from __future__ import annotations

from typing import Any

from tests.memory_further_models import FURTHER
from tests.memory_models import (
    MXFP4,
    Q8_0,
    Model,
    Tensors,
    attention,
    experts,
    layers,
    network,
    numbers,
    outside,
    post_norms,
    routed,
)
from tests.memory_recurrent_models import RECURRENT


def _plain(width: int, count: int, inner: int, heads: int, kv: int, size: int, *, words: int, **more: Any) -> Tensors:
    tied, bias, norms = bool(more.get("tied")), bool(more.get("bias")), str(more.get("norms", ""))
    norm = more.get("norm", "ffn_norm")
    return outside(width, words, tied=tied) + layers(
        count,
        lambda _, b: attention(b, width, heads, kv, size, bias=bias, norms=norms) + network(b, width, inner, norm),
    )


# ---- As they are


def gpt_oss(types: dict[str, int]) -> Model:
    """gpt-oss 20B, its experts in MXFP4."""
    width, heads, kv, size, words, count = 2880, 64, 8, 64, 201088, 32

    def layer(_: int, b: str) -> Tensors:
        rows = attention(b, width, heads, kv, size, bias=True) + experts(b, width, 2880, count, "post_attention_norm")
        rows += [(f"{b}ffn_{one}_exps.bias", (2880, count)) for one in ("up", "gate", "down")]
        return [
            *rows,
            (f"{b}attn_output.bias", (width,)),
            (f"{b}attn_sinks.weight", (heads,)),
            (f"{b}ffn_gate_inp.bias", (count,)),
        ]

    values = numbers(width, 24, 2880, heads, kv, size, attention__sliding_window=128, **routed(count, 4, 2880))

    def kind(name: str) -> int | None:
        plain = (
            Q8_0
            if "norm" not in name and name.endswith("weight") and "sinks" not in name and "inp" not in name
            else None
        )
        return MXFP4 if name.endswith("_exps.weight") else plain if types else None

    return Model("gpt-oss", values, outside(width, words) + layers(24, layer), kind)


def deepseek_v2_lite() -> Model:
    """DeepSeek V2 Lite, 27 layers of compressed keys and values."""
    width, heads = 2048, 16

    def layer(number: int, b: str) -> Tensors:
        rows: Tensors = [
            (f"{b}attn_norm.weight", (width,)), (f"{b}attn_q.weight", (width, heads * 192)),
            (f"{b}attn_kv_a_mqa.weight", (width, 576)), (f"{b}attn_kv_a_norm.weight", (512,)),
            (f"{b}attn_k_b.weight", (128, 512, heads)), (f"{b}attn_v_b.weight", (512, 128, heads)),
            (f"{b}attn_output.weight", (heads * 128, width)),
        ]  # fmt: skip
        dense = number == 0
        return rows + (network(b, width, 10944) if dense else experts(b, width, 1408, 64, shared=2816))

    values = numbers(
        width, 27, 10944, heads, 1, 576, attention__value_length=512, attention__key_length_mla=192,
        attention__value_length_mla=128, attention__kv_lora_rank=512, rope__dimension_count=64, expert_shared_count=2,
        leading_dense_block_count=1, expert_weights_scale=1.0, **routed(64, 6, 1408),
    )  # fmt: skip
    return Model("deepseek2", values, outside(width, 102400) + layers(27, layer))


def gemma(width: int, count: int, inner: int, heads: int, kv: int, size: int, words: int, window: int) -> Model:
    """Gemma 3."""
    rows = outside(width, words, tied=True) + layers(
        count,
        lambda _, b: (
            attention(b, width, heads, kv, size, norms="heads") + network(b, width, inner) + post_norms(b, width)
        ),
    )
    return Model("gemma3", numbers(width, count, inner, heads, kv, size, attention__sliding_window=window), rows)


def llama(count: int = 32) -> Model:
    """Llama 3.1 8B."""
    rows = _plain(4096, count, 14336, 32, 8, 128, words=128256)
    return Model("llama", numbers(4096, count, 14336, 32, 8, 128), [*rows, ("rope_freqs.weight", (64,))])


WHOLE = {
    "gpt-oss-20b-Q4_K_M": gpt_oss({}),
    "gpt-oss-20b-mxfp4": gpt_oss({"all": Q8_0}),
    "gemma-3-27b-Q4_K_M": gemma(5376, 62, 21504, 32, 16, 128, 262208, 1024),
    "DeepSeek-V2-Lite-Q4_K_M": deepseek_v2_lite(),
    "Llama-3.1-8B-Q4_K_M": llama(),
}

# ---- Attention and networks


def dense(architecture: str, sizes: tuple[int, int, int, int, int, int], words: int, **more: Any) -> Model:
    """A decoder that differs from Llama in tensors alone; ``values`` are further metadata."""
    values = dict(more.pop("values", {}))
    return Model(architecture, numbers(*sizes, **values), _plain(*sizes, words=words, **more))


def mixture(
    architecture: str, sizes: tuple[int, int, int, int, int, int], words: int, count: int, **more: Any
) -> Model:
    """One with experts; ``lead`` layers have none."""
    width, number, inner, heads, kv, size = sizes
    lead, norm = more.get("lead", 0), more.get("norm", "ffn_norm")
    expert, shared = more["expert"], more.get("shared", 0)
    values = dict(more.get("values", {}))

    def layer(at: int, b: str) -> Tensors:
        rows = attention(
            b,
            width,
            heads,
            kv,
            size,
            bias=bool(more.get("bias")),
            norms=str(more.get("norms", "")),
            fused=bool(more.get("fused")),
        )
        if at < lead:
            return rows + network(b, width, inner, norm)
        gated = bool(more.get("shared_gate"))
        return rows + experts(
            b, width, expert, count, norm, shared=shared, bias=bool(more.get("probs")), shared_gate=gated
        )

    rows = outside(width, words, tied=bool(more.get("tied"))) + layers(number, layer)
    used = more["used"]
    return Model(
        architecture, numbers(*sizes, leading_dense_block_count=lead, **routed(count, used, expert, **values)), rows
    )


def post_normed(architecture: str, sizes: tuple[int, int, int, int, int, int], words: int, **more: Any) -> Model:
    """One with norms behind attention and network; ``first``: and before them."""
    width, count, inner, heads, kv, size = sizes
    first, values = bool(more.get("first", True)), dict(more.get("values", {}))

    def layer(_: int, b: str) -> Tensors:
        rows = attention(b, width, heads, kv, size, norms=str(more.get("norms", "")), first=first)
        return rows + network(b, width, inner, "ffn_norm" if first else "") + post_norms(b, width)

    rows = outside(width, words, tied=bool(more.get("tied"))) + layers(count, layer)
    return Model(architecture, numbers(*sizes, **values), rows)


def parallel(architecture: str, sizes: tuple[int, int, int, int, int, int], **values: Any) -> Model:
    """One whose attention and network share a norm."""
    width, count, inner, heads, kv, size = sizes
    rows = layers(count, lambda _, b: attention(b, width, heads, kv, size) + network(b, width, inner, ""))
    return Model(architecture, numbers(*sizes, **values), outside(width, 256000, tied=True) + rows)


def phi3() -> Model:
    """Phi 3, whose matrices are joined."""
    width = 3072

    def layer(_: int, b: str) -> Tensors:
        rows = attention(b, width, 32, 32, 96, fused=True)
        return [
            *rows,
            (f"{b}ffn_norm.weight", (width,)),
            (f"{b}ffn_up.weight", (width, 16384)),
            (f"{b}ffn_down.weight", (8192, width)),
        ]

    factors: Tensors = [("rope_factors_long.weight", (48,)), ("rope_factors_short.weight", (48,))]
    values = numbers(width, 6, 8192, 32, 32, 96, rope__scaling__original_context_length=4096)
    return Model("phi3", values, outside(width, 32064) + factors + layers(6, layer))


def glm4() -> Model:
    """GLM 4, whose gate and up are joined."""
    width = 4096

    def layer(_: int, b: str) -> Tensors:
        rows = attention(b, width, 32, 2, 128, bias=True) + post_norms(b, width)
        return [
            *rows,
            (f"{b}ffn_norm.weight", (width,)),
            (f"{b}ffn_up.weight", (width, 27392)),
            (f"{b}ffn_down.weight", (13696, width)),
        ]

    return Model(
        "glm4",
        numbers(width, 6, 13696, 32, 2, 128, rope__dimension_count=64),
        outside(width, 151552) + layers(6, layer),
    )


def glm4_moe() -> Model:
    """GLM 4.5 Air with its layer of multi-token prediction."""
    values = {
        "expert_shared_count": 1,
        "expert_weights_norm": True,
        "expert_weights_scale": 1.0,
        "expert_gating_func": 2,
    }
    base = mixture(
        "glm4moe", (4096, 7, 10944, 96, 8, 128), 151552, 128,
        used=8, expert=1408, shared=1408, lead=1, probs=True, bias=True, norm="post_attention_norm",
        values={**values, "nextn_predict_layers": 1, "rope__dimension_count": 64},
    )  # fmt: skip
    more = {"eh_proj": (8192, 4096), "enorm": (4096,), "hnorm": (4096,), "shared_head_norm": (4096,)}
    rows = [(f"blk.6.nextn.{name}.weight", shape) for name, shape in more.items()]
    return Model(base.architecture, base.values, [*base.tensors, *rows])


def deepseek_v3() -> Model:
    """DeepSeek V3: queries are compressed, too, and experts are in groups."""
    width, heads = 7168, 128

    def layer(number: int, b: str) -> Tensors:
        rows: Tensors = [
            (f"{b}attn_norm.weight", (width,)), (f"{b}attn_q_a.weight", (width, 1536)),
            (f"{b}attn_q_a_norm.weight", (1536,)), (f"{b}attn_q_b.weight", (1536, heads * 192)),
            (f"{b}attn_kv_a_mqa.weight", (width, 576)), (f"{b}attn_kv_a_norm.weight", (512,)),
            (f"{b}attn_k_b.weight", (128, 512, heads)), (f"{b}attn_v_b.weight", (512, 128, heads)),
            (f"{b}attn_output.weight", (heads * 128, width)),
        ]  # fmt: skip
        dense_part = network(b, width, 18432)
        return rows + (dense_part if number < 1 else experts(b, width, 2048, 64, shared=2048, bias=True))

    values = numbers(
        width, 4, 18432, heads, 1, 576, attention__value_length=512, attention__key_length_mla=192,
        attention__value_length_mla=128, attention__kv_lora_rank=512, attention__q_lora_rank=1536,
        rope__dimension_count=64, expert_shared_count=1, leading_dense_block_count=1, expert_weights_scale=2.5,
        expert_weights_norm=True, expert_gating_func=2, expert_group_count=8, expert_group_used_count=4,
        **routed(64, 8, 2048),
    )  # fmt: skip
    return Model("deepseek2", values, outside(width, 129280) + layers(4, layer))


SHARED = {"expert_weights_norm": True, "expert_weights_scale": 2.5, "expert_gating_func": 2}
SMALL = {
    "qwen2": dense("qwen2", (3584, 8, 18944, 28, 4, 128), 151936, bias=True),
    "qwen2vl": dense(
        "qwen2vl", (3584, 6, 18944, 28, 4, 128), 151936, bias=True, values={"rope__dimension_sections": [16, 24, 24, 0]}
    ),
    "qwen3": dense("qwen3", (2560, 9, 9728, 32, 8, 128), 151936, tied=True, norms="heads"),
    "qwen3vl": dense(
        "qwen3vl",
        (2560, 7, 9728, 32, 8, 128),
        151936,
        tied=True,
        norms="heads",
        values={"rope__dimension_sections": [24, 20, 20, 0], "n_deepstack_layers": 3},
    ),
    "qwen2moe": mixture(
        "qwen2moe",
        (2048, 6, 5632, 16, 16, 128),
        151936,
        60,
        used=4,
        expert=1408,
        shared=5632,
        shared_gate=True,
        bias=True,
        values={"expert_shared_feed_forward_length": 5632},
    ),
    "qwen3moe": mixture("qwen3moe", (2048, 8, 6144, 32, 4, 128), 151936, 128, used=8, expert=768, norms="heads"),
    "qwen3vlmoe": mixture(
        "qwen3vlmoe",
        (2048, 6, 6144, 32, 4, 128),
        151936,
        128,
        used=8,
        expert=768,
        norms="heads",
        values={"rope__dimension_sections": [24, 20, 20, 0], "n_deepstack_layers": 3},
    ),
    "mixtral": mixture("llama", (4096, 4, 14336, 32, 8, 128), 32000, 8, used=2, expert=14336),
    "mistral3": dense(
        "mistral3",
        (4096, 6, 14336, 32, 8, 128),
        131072,
        values={"attention__temperature_scale": 0.1, "rope__scaling__original_context_length": 16384},
    ),
    "llama4": mixture(
        "llama4",
        (5120, 8, 16384, 40, 8, 128),
        202048,
        16,
        used=1,
        expert=8192,
        shared=8192,
        values={"interleave_moe_layer_step": 1},
    ),
    "seed_oss": dense("seed_oss", (5120, 4, 27648, 80, 8, 128), 155136, bias=True, norm="post_attention_norm"),
    "smollm3": dense("smollm3", (2048, 8, 11008, 16, 4, 128), 128256, tied=True),
    "ernie4_5": dense("ernie4_5", (1024, 6, 3072, 16, 2, 128), 103424, tied=True),
    "ernie4_5-moe": mixture(
        "ernie4_5-moe",
        (2560, 5, 12288, 20, 4, 128),
        103424,
        64,
        used=6,
        expert=1536,
        shared=3072,
        lead=1,
        probs=True,
        tied=True,
        values={"expert_shared_feed_forward_length": 3072, "interleave_moe_layer_step": 1, "expert_shared_count": 2},
    ),
    "hunyuan-moe": mixture(
        "hunyuan-moe",
        (4096, 4, 3072, 32, 8, 128),
        128167,
        64,
        used=8,
        expert=3072,
        shared=3072,
        norms="heads",
        tied=True,
        values={"expert_shared_feed_forward_length": 3072},
    ),
    "hunyuan-dense": dense("hunyuan-dense", (2048, 6, 6144, 16, 4, 128), 120818, tied=True, norms="heads"),
    "dots1": mixture(
        "dots1",
        (4096, 5, 10944, 32, 32, 128),
        152064,
        128,
        used=6,
        expert=1408,
        shared=2816,
        lead=1,
        probs=True,
        norms="heads",
        values={"expert_shared_count": 2, **SHARED},
    ),
    "bailingmoe2": mixture(
        "bailingmoe2",
        (2048, 5, 5120, 16, 4, 128),
        157184,
        256,
        used=8,
        expert=512,
        shared=512,
        lead=1,
        probs=True,
        norms="heads",
        fused=True,
        values={
            "expert_shared_count": 1,
            "expert_group_count": 8,
            "expert_group_used_count": 4,
            "rope__dimension_count": 64,
            "expert_shared_feed_forward_length": 512,
            **SHARED,
        },
    ),
    "minimax-m2": mixture(
        "minimax-m2",
        (3072, 4, 1536, 48, 8, 128),
        200064,
        256,
        used=8,
        expert=1536,
        probs=True,
        norms="rows",
        values={"expert_gating_func": 2, "rope__dimension_count": 64},
    ),
    "olmoe": mixture("olmoe", (2048, 6, 1024, 16, 16, 128), 50304, 64, used=8, expert=1024, norms="rows"),
    "granite": dense(
        "granite",
        (4096, 6, 12800, 32, 8, 128),
        49152,
        tied=True,
        values={"logit_scale": 16.0, "residual_scale": 0.22, "embedding_scale": 12.0},
    ),
    "granitemoe": mixture(
        "granitemoe",
        (1536, 6, 512, 24, 8, 64),
        49152,
        40,
        used=8,
        expert=512,
        tied=True,
        values={"logit_scale": 6.0, "residual_scale": 0.22, "embedding_scale": 12.0},
    ),
    "gemma": dense("gemma", (3072, 6, 24576, 16, 16, 256), 256000, tied=True),
    "gemma2": post_normed(
        "gemma2",
        (3584, 8, 14336, 16, 8, 256),
        256000,
        tied=True,
        values={"attention__sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "gemma3-1b": gemma(1152, 13, 6912, 4, 1, 256, 262144, 512),
    "exaone4": post_normed("exaone4", (2048, 6, 4096, 32, 8, 64), 102400, tied=True, norms="heads", first=False),
    "olmo2": post_normed("olmo2", (4096, 6, 11008, 32, 32, 128), 100352, norms="rows", first=False),
    "command-r": parallel(
        "command-r", (8192, 4, 22528, 64, 64, 128), logit_scale=0.0625, attention__layer_norm_epsilon=1e-5
    ),
    "cohere2": parallel(
        "cohere2",
        (4096, 8, 14336, 32, 8, 128),
        logit_scale=0.25,
        attention__layer_norm_epsilon=1e-5,
        attention__sliding_window=4096,
    ),
    "phi3": phi3(),
    "glm4": glm4(),
    "glm4moe": glm4_moe(),
    "deepseek-v3": deepseek_v3(),
}
MODELS = {**WHOLE, **SMALL, **FURTHER, **RECURRENT}
