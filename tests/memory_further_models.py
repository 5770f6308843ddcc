"""Models with few layers for plans of memory: LayerNorm with biases, encoders, Gemma 4, and state spaces of Mamba 1."""

from __future__ import annotations

from typing import Any

from tests.memory_models import (
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
from tests.memory_recurrent_models import state_space, states

EPSILON = {"attention__layer_norm_epsilon": 1e-5}


def biased(rows: Tensors, *endings: str) -> Tensors:
    """The same with a bias beside each weight whose name ends so."""
    of = tuple(f"{ending}.weight" for ending in endings)
    more: Tensors = [(name.removesuffix("weight") + "bias", (shape[-1],)) for name, shape in rows if name.endswith(of)]
    return [*rows, *more]


# ---- Decoders


def ungated(architecture: str, sizes: tuple[int, int, int, int, int, int], words: int, **more: Any) -> Model:
    """Networks without a gate; ``biases``: of the tensors with these endings."""
    width, count, inner, heads, kv, size = sizes
    rows = outside(width, words, tied=bool(more.get("tied")))
    rows += layers(count, lambda _, b: attention(b, width, heads, kv, size) + network(b, width, inner, gate=False))
    return Model(architecture, numbers(*sizes, **more.get("values", {})), biased(rows, *more.get("biases", ())))


def deepseek() -> Model:
    """The first DeepSeek MoE."""
    width = 2048

    def layer(at: int, b: str) -> Tensors:
        rows = attention(b, width, 16, 16, 128)
        return rows + (network(b, width, 10944) if at < 1 else experts(b, width, 1408, 64, shared=2816))

    more = routed(64, 6, 1408, expert_shared_count=2, leading_dense_block_count=1)
    return Model("deepseek", numbers(width, 5, 10944, 16, 16, 128, **more), outside(width, 102400) + layers(5, layer))


def gemma4(width: int, inner: int, heads: int, *, by_layer: int = 0, shared: int = 0, count: int = 0) -> Model:
    """Gemma 4; ``by_layer``: width of the embeddings of each layer; ``shared``: layers without a cache."""
    window = [True, True, False, True, True, False]
    kv = [2 if one else 1 for one in window] if by_layer else [8 if one else 2 for one in window]

    def layer(at: int, b: str) -> Tensors:
        size = 256 if window[at] else 512
        rows = attention(b, width, heads, kv[at], size, norms="heads")
        if at >= 6 - shared:
            rows = [row for row in rows if not row[0].startswith((f"{b}attn_k", f"{b}attn_v"))]
        elif not by_layer and not window[at]:
            rows = [row for row in rows if not row[0].startswith(f"{b}attn_v")]
        rows += network(b, width, inner) + post_norms(b, width) + [(f"{b}layer_output_scale.weight", (1,))]
        if by_layer:
            rows += [(f"{b}inp_gate.weight", (width, by_layer)), (f"{b}proj.weight", (by_layer, width))]
            rows.append((f"{b}post_norm.weight", (width,)))
        if count:
            norms = ("post_ffw_norm_1", "pre_ffw_norm_2", "post_ffw_norm_2")
            rows += [(f"{b}{name}.weight", (width,)) for name in norms] + [(f"{b}ffn_gate_inp.scale", (width,))]
            rows += experts(b, width, 704, count)[1:]
        return rows

    rows = outside(width, 262144, tied=True) + layers(6, layer) + [("rope_freqs.weight", (256,))]
    if by_layer:
        rows += [("per_layer_token_embd.weight", (by_layer * 6, 262144)), ("per_layer_proj_norm.weight", (by_layer,))]
        rows.append(("per_layer_model_proj.weight", (width, by_layer * 6)))
    more: dict[str, Any] = {
        "attention__sliding_window": 512, "attention__sliding_window_pattern": window, "attention__key_length_swa": 256,
        "attention__value_length_swa": 256, "attention__shared_kv_layers": shared, "rope__dimension_count_swa": 256,
        "embedding_length_per_layer_input": by_layer, "final_logit_softcapping": 30.0, "attention__head_count_kv": kv,
        **(routed(count, 8, 704) if count else {}),
    }  # fmt: skip
    return Model("gemma4", numbers(width, 6, inner, heads, 1, 512, **more), rows)


# ---- Encoders


def encoder(architecture: str, width: int, inner: int, words: int, *, count: int = 0) -> Model:
    """BERT and its like; ``count``: experts of every second layer."""
    heads, gate = width // 64, architecture == "nomic-bert"

    def layer(at: int, b: str) -> Tensors:
        rows = attention(b, width, heads, heads, 64, first=False, bias=architecture == "bert")
        norms = ("attn_output_norm", "layer_output_norm")
        rows += [(f"{b}{name}.{kind}", (width,)) for name in norms for kind in ("weight", "bias")]
        if count and at % 2 == 1:
            return rows + experts(b, width, inner, count, gate=False)[1:]
        plain = network(b, width, inner, "", gate=gate)
        return biased(rows + plain, *(() if gate else ("attn_output", "ffn_up", "ffn_down")))

    rows: Tensors = [("token_embd.weight", (width, words)), ("token_types.weight", (width, 2))]
    rows += [("token_embd_norm.weight", (width,)), ("token_embd_norm.bias", (width,))]
    if architecture == "bert":
        rows.append(("position_embd.weight", (width, 512)))
    values = numbers(width, 6, inner, heads, heads, 64, attention__causal=False, **EPSILON, pooling_type=1)
    values["context_length"] = 512 if architecture == "bert" else 2048
    if count:
        values |= {"moe_every_n_layers": 2, **routed(count, 2, inner)}
    return Model(architecture, values, rows + layers(6, layer))


def gemma_embedding() -> Model:
    """EmbeddingGemma, with the matrices behind its pooling."""
    width = 768
    rows = outside(width, 262144, tied=True) + layers(
        7, lambda _, b: attention(b, width, 3, 1, 256, norms="heads") + network(b, width, 1152) + post_norms(b, width)
    )
    rows += [("dense_2.weight", (width, 3072)), ("dense_3.weight", (3072, width))]
    more = {"dense_2_feat_in": 768, "dense_2_feat_out": 3072, "dense_3_feat_in": 3072, "dense_3_feat_out": 768}
    values = numbers(width, 7, 1152, 3, 1, 256, attention__sliding_window=512, pooling_type=1, **more)
    return Model("gemma-embedding", {**values, "context_length": 2048}, rows)


# ---- State spaces


def falcon_h1() -> Model:
    """Falcon H1: attention and Mamba 2 in each layer."""
    width = 2048

    def layer(_: int, b: str) -> Tensors:
        space = [row for row in state_space(b, width, 3072, 1, 48, 256) if row[0] != f"{b}attn_norm.weight"]
        rest = [(f"{b}ffn_norm", (width,)), *network(b, width, 4096, "")]
        return attention(b, width, 8, 2, 128) + [row for row in space if "ssm_norm" not in row[0]] + rest

    more = {**states(3072, 48, 1), "ssm__state_size": 256}
    return Model("falcon-h1", numbers(width, 6, 4096, 8, 2, 128, **more), outside(width, 65537) + layers(6, layer))


def selective(b: str, width: int, rank: int, *, norms: bool) -> Tensors:
    """A layer of Mamba 1."""
    inner = 2 * width
    sizes = {
        "attn_norm": (width,), "ssm_in": (width, 2 * inner), "ssm_conv1d": (4, inner), "ssm_x": (inner, rank + 32),
        "ssm_dt": (rank, inner), "ssm_out": (inner, width),
    }  # fmt: skip
    if norms:
        sizes |= {"ssm_dt_norm": (rank,), "ssm_b_norm": (16,), "ssm_c_norm": (16,)}
    rest: Tensors = [(f"{b}ssm_conv1d.bias", (inner,)), (f"{b}ssm_dt.bias", (inner,))]
    rest += [(f"{b}ssm_a", (16, inner)), (f"{b}ssm_d", (inner,))]
    return [*((f"{b}{name}.weight", shape) for name, shape in sizes.items()), *rest]


def _selective_states(width: int, rank: int) -> dict[str, int]:
    sizes = {"conv_kernel": 4, "inner_size": 2 * width, "state_size": 16, "time_step_rank": rank}
    return {f"ssm__{key}": value for key, value in sizes.items()}


def mamba() -> Model:
    """Mamba 1."""
    values: dict[str, Any] = {
        "context_length": 1048576, "embedding_length": 2560, "block_count": 6, "feed_forward_length": 0,
        "attention.head_count": 0, "attention.layer_norm_rms_epsilon": 1e-5,
    }  # fmt: skip
    values |= {key.replace("__", "."): value for key, value in _selective_states(2560, 160).items()}
    rows = layers(6, lambda _, b: selective(b, 2560, 160, norms=False))
    return Model("mamba", values, outside(2560, 50280, tied=True) + rows)


def jamba() -> Model:
    """Jamba: Mamba 1 with attention in every fourth layer, and experts in every second."""
    width, kv = 2560, [0, 0, 4, 0, 0, 0, 4, 0]

    def layer(at: int, b: str) -> Tensors:
        rows = attention(b, width, 20, 4, 128) if kv[at] else selective(b, width, 160, norms=True)
        return rows + (experts(b, width, 4096, 16) if at % 2 else network(b, width, 4096))

    more = {**_selective_states(width, 160), "attention__head_count_kv": kv, "expert_count": 16, "expert_used_count": 2}
    return Model("jamba", numbers(width, 8, 4096, 20, 4, 128, **more), outside(width, 65536) + layers(8, layer))


NORMS = ("attn_norm", "ffn_norm", "output_norm")
FURTHER = {
    "arcee": ungated("arcee", (2560, 6, 18432, 20, 4, 128), 128004),
    "nemotron": ungated("nemotron", (3072, 6, 9216, 24, 8, 128), 256000, biases=NORMS, values=EPSILON),
    "starcoder2": ungated(
        "starcoder2", (3072, 6, 12288, 24, 2, 128), 49152, tied=True, values=EPSILON,
        biases=(*NORMS, "attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"),
    ),
    "deepseek": deepseek(),
    "gemma4": gemma4(5376, 21504, 32),
    "gemma4-e4b": gemma4(2560, 10240, 8, by_layer=256, shared=3),
    "gemma4-moe": gemma4(2816, 2112, 16, count=128),
    "bert": encoder("bert", 1024, 4096, 30522),
    "nomic-bert": encoder("nomic-bert", 768, 3072, 30522),
    "nomic-bert-moe": encoder("nomic-bert-moe", 768, 3072, 30522, count=8),
    "gemma-embedding": gemma_embedding(),
    "falcon-h1": falcon_h1(),
    "mamba": mamba(),
    "jamba": jamba(),
}  # fmt: skip
