"""GGUF files with the tensors of real models and no data, for plans of memory: headers of a few KiB over a hole.

    write(folder / "m.gguf", memory_model_list.MODELS["qwen3"])

Types follow llama-quantize's Q4_K_M. Most have no vocabulary: llama.cpp takes them as they are.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexus_tasks.hostlib.tensor_types import TENSOR_TYPES, row_bytes, type_number

ALIGNMENT = 32
F32, F16, Q4_K, Q6_K, Q8_0, MXFP4 = (type_number(name) for name in ("f32", "f16", "q4_K", "q6_K", "q8_0", "mxfp4"))
NARROW = {Q4_K: type_number("q5_0"), Q6_K: Q8_0}  # for rows that are no multiple of 256
NOT_QUANTISED = re.compile(
    r"(_norm|norm)\.weight$|ffn_gate_inp|\.bias$|ssm_(conv1d|a|d|dt)\b|attn_sinks|rope_freqs|ssm_norm|exp_probs_b"
)

Tensors = list[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Model:
    """What a header is made of."""

    architecture: str
    values: Mapping[str, Any]
    tensors: Tensors
    types: Callable[[str], int | None] = field(default=lambda name: None)
    """Types of tensors that are not those of Q4_K_M."""


# ---- Files


def write(path: Path, model: Model) -> Path:
    """Write the header, and let the file be as long as it has to be."""
    rows = sorted(model.tensors, key=lambda row: (_layer(row[0]), row[0]))
    kinds = quantised(rows, model)
    table, offset = [], 0
    for (name, shape), kind in zip(rows, kinds, strict=True):
        dimensions = struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        table.append(_text(name) + dimensions)
        size = row_bytes(kind, shape[0])
        for length in shape[1:]:
            size *= length
        offset += size + -size % ALIGNMENT
    words = dict(rows)["token_embd.weight"][1]
    values: dict[str, Any] = {"general.architecture": model.architecture, **_vocabulary(rows, words)}
    values[f"{model.architecture}.vocab_size"] = words
    values |= {f"{model.architecture}.{key}": value for key, value in model.values.items()}
    pairs = [_text(key) + _value(value) for key, value in values.items()]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(table), len(pairs)) + b"".join(pairs) + b"".join(table)
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(len(head) + -len(head) % ALIGNMENT + offset)
    return path


def _vocabulary(rows: Tensors, words: int) -> dict[str, Any]:
    """None, but for models with types of tokens: llama.cpp reads their number with the words."""
    if "token_types.weight" not in dict(rows):
        return {"tokenizer.ggml.model": "none"}
    pieces = [f"w{number}" for number in range(words)]
    return {"tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": pieces, "tokenizer.ggml.token_type_count": 2}


def _layer(name: str) -> int:
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else -1


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
    kind, code = (7, "?") if isinstance(value[0], bool) else (5, "i")
    return struct.pack(f"<IIQ{len(value)}{code}", 9, kind, len(value), *value)


def quantised(rows: Tensors, model: Model) -> list[int]:
    """The types of tensors."""
    layers = int(model.values["block_count"])
    values = sorted({_layer(name) for name, _ in rows if re.search(r"\.attn_(v|qkv|kv_b)\.weight$", name)})
    tied = "output.weight" not in dict(rows)
    kinds = []
    for name, shape in rows:
        kind = model.types(name)
        if kind is None:
            kind = _kind(name, shape, layers, values, tied)
        if TENSOR_TYPES[kind].per_block == 256 and shape[0] % 256:
            kind = NARROW[kind]
        kinds.append(F16 if shape[0] % TENSOR_TYPES[kind].per_block else kind)
    return kinds


def _kind(name: str, shape: tuple[int, ...], layers: int, values: list[int], tied: bool) -> int:
    if len(shape) == 1 or NOT_QUANTISED.search(name):
        return F32
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        return Q6_K
    layer = _layer(name)
    if name.endswith("attn_v.weight") and _more_bits(values.index(layer), len(values)):
        return Q6_K
    return Q6_K if re.search(r"\.ffn_down(_exps|_shexp)?\.weight$", name) and _more_bits(layer, layers) else Q4_K


def _more_bits(place: int, count: int) -> bool:
    return place < count // 8 or place >= 7 * count // 8 or (place - count // 8) % 3 == 2


# ---- Parts of models


def outside(width: int, words: int, *, tied: bool = False) -> Tensors:
    """The tensors outside the layers."""
    head: Tensors = [] if tied else [("output.weight", (width, words))]
    return [("token_embd.weight", (width, words)), ("output_norm.weight", (width,)), *head]


def attention(
    block: str, width: int, heads: int, kv: int, size: int, *, bias: bool = False, norms: str = "", first: bool = True,
    fused: bool = False,
) -> Tensors:  # fmt: skip
    """Attention of a layer; ``norms``: of Q and K, by head or of all rows; ``first``: whether a norm goes before it."""
    found: Tensors = [(f"{block}attn_norm.weight", (width,))] if first else []
    if fused:
        found.append((f"{block}attn_qkv.weight", (width, (heads + 2 * kv) * size)))
    else:
        counts = {"q": heads, "k": kv, "v": kv}
        found += [(f"{block}attn_{one}.weight", (width, count * size)) for one, count in counts.items()]
        found += [(f"{block}attn_{one}.bias", (count * size,)) for one, count in counts.items() if bias]
    found.append((f"{block}attn_output.weight", (heads * size, width)))
    if norms:
        of = {"heads": (size, size), "rows": (size * heads, size * kv)}[norms]
        found += [(f"{block}attn_{one}_norm.weight", (length,)) for one, length in zip("qk", of, strict=True)]
    return found


def network(block: str, width: int, inner: int, norm: str = "ffn_norm", *, gate: bool = True) -> Tensors:
    """A feed-forward network."""
    found: Tensors = [(f"{block}{norm}.weight", (width,))] if norm else []
    parts = ("up", "gate") if gate else ("up",)
    found += [(f"{block}ffn_{part}.weight", (width, inner)) for part in parts]
    return [*found, (f"{block}ffn_down.weight", (inner, width))]


def experts(
    block: str, width: int, inner: int, count: int, norm: str = "ffn_norm", *, shared: int = 0, bias: bool = False,
    shared_gate: bool = False, gate: bool = True,
) -> Tensors:  # fmt: skip
    """A mixture of experts."""
    found: Tensors = [(f"{block}{norm}.weight", (width,)), (f"{block}ffn_gate_inp.weight", (width, count))]
    parts = ("up", "gate") if gate else ("up",)
    found += [(f"{block}ffn_{part}_exps.weight", (width, inner, count)) for part in parts]
    found.append((f"{block}ffn_down_exps.weight", (inner, width, count)))
    if shared:
        found += [(f"{block}ffn_{part}_shexp.weight", (width, shared)) for part in parts]
        found.append((f"{block}ffn_down_shexp.weight", (shared, width)))
    if shared_gate:
        found.append((f"{block}ffn_gate_inp_shexp.weight", (width,)))
    return [*found, (f"{block}exp_probs_b.bias", (count,))] if bias else found


def post_norms(block: str, width: int) -> Tensors:
    """Norms behind attention and network."""
    return [(f"{block}post_attention_norm.weight", (width,)), (f"{block}post_ffw_norm.weight", (width,))]


def layers(count: int, part: Callable[[int, str], Tensors]) -> Tensors:
    """All layers."""
    return [row for number in range(count) for row in part(number, f"blk.{number}.")]


def numbers(width: int, count: int, inner: int, heads: int, kv: int, size: int, **more: Any) -> dict[str, Any]:
    """Metadata; further keys have __ in the place of a dot."""
    return {
        "context_length": 131072, "embedding_length": width, "block_count": count, "feed_forward_length": inner,
        "attention.head_count": heads, "attention.head_count_kv": kv, "attention.key_length": size,
        "attention.value_length": size, "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 1e6,
        "rope.dimension_count": size, **{key.replace("__", "."): value for key, value in more.items()},
    }  # fmt: skip


def routed(count: int, used: int, inner: int, **more: Any) -> dict[str, Any]:
    """Metadata of experts."""
    return {"expert_count": count, "expert_used_count": used, "expert_feed_forward_length": inner, **more}
