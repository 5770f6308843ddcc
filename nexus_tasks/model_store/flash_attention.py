"""FlashAttention kernels that CUDA has: ggml_cuda_get_best_fattn_kernel of fattn.cu.

resolved(shape, rules, options, placement)          "on" or "off"
"""

from __future__ import annotations

from collections.abc import Collection

from nexus_tasks.core.errors import UsageError
from nexus_tasks.hostlib.model_shape import ModelShape

from .architectures.rules import Rules
from .placement import Placement
from .server_options import ServerOptions

EQUAL_HEADS = frozenset({40, 64, 72, 80, 96, 112, 128, 256, 512})
# Sizes of K's heads whose V is of another: that of V, and of what number the heads that share one are a multiple.
UNEQUAL_HEADS = {192: (128, 8), 320: (256, 32), 576: (512, 2)}
SHARED_ONLY = frozenset({512, 576})
CACHE_TYPES = frozenset({"f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"})


def resolved(shape: ModelShape, rules: Rules, options: ServerOptions, placement: Placement) -> str:
    """``on`` or ``off``, for what was asked; the host has a kernel for all of its layers.

    Raises UsageError where llama-server would not start, or would compute attention of a GPU's layer on the host.
    """
    on_gpus = [layer for layer in range(shape.n_layer) if placement.layers[layer] != placement.host]
    why = _unsupported(shape, rules, options, on_gpus) if rules.has_cache else ""
    quantised = options.cache_type_v not in ("f32", "f16", "bf16")
    wanted = "on" if options.flash_attn == "auto" and quantised else options.flash_attn
    if wanted == "on" and why:
        raise UsageError(
            f"CUDA's FlashAttention has no kernel for {why}: with --flash-attn on the host would compute it",
            hint="plan with --flash-attn off",
        )
    result = "off" if why and wanted == "auto" else "on" if wanted == "auto" else wanted
    if result == "off" and quantised:
        raise UsageError(
            f"--cache-type-v {options.cache_type_v} needs FlashAttention",
            hint="give --flash-attn on, or leave V in f16",
        )
    return result


def _unsupported(shape: ModelShape, rules: Rules, options: ServerOptions, layers: Collection[int]) -> str:
    """The reason why there is no kernel for one of these layers; nothing where there is."""
    recurrent = rules.recurrent_layers(shape)
    swa = rules.swa_layers(shape)
    for layer in layers:
        if not rules.has_attention(shape, layer, recurrent) or not shape.n_head_kv[layer]:
            continue
        for kind in (options.cache_type_k, options.cache_type_v):
            if kind not in CACHE_TYPES:
                return f"caches of type {kind}"
        windowed = bool(swa) and swa[layer]
        k, v = (shape.head_k_swa, shape.head_v_swa) if windowed else (shape.head_k, shape.head_v)
        shared = shape.n_head[layer] // shape.n_head_kv[layer]
        if not _has_kernel(k, v, shared):
            return f"heads of {k} and {v}, {shared} to one of the cache"
    return ""


def _has_kernel(k: int, v: int, shared: int) -> bool:
    if k in UNEQUAL_HEADS:
        wanted, multiple = UNEQUAL_HEADS[k]
        return v == wanted and shared % multiple == 0 and shared > 1
    return k in EQUAL_HEADS and v == k and (k not in SHARED_ONLY or shared > 1)
