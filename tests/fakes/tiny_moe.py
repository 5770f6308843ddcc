"""A small mixture of experts with random weights: for placing experts on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType, TokenType

from nexus_tasks.model_store import tiny_model

N_LAYER, N_EMBD, N_HEAD, N_HEAD_KV, N_FF, N_EXPERT = 6, 256, 4, 2, 256, 4
EXPERTS_MIB = 3 * N_EXPERT * N_FF * N_EMBD * 2 / 2**20  # of one layer


def write(path: Path) -> None:
    """Write the model, 12 MB, to ``path``."""
    words = tiny_model.vocabulary()
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny-moe")
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(len(words.tokens))
    writer.add_context_length(16384)
    writer.add_block_count(N_LAYER)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD_KV)
    writer.add_rope_dimension_count(N_EMBD // N_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_expert_count(N_EXPERT)
    writer.add_expert_used_count(2)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words.tokens)
    writer.add_token_types([TokenType.NORMAL] * words.end_of_text + [TokenType.CONTROL])
    writer.add_token_merges(words.merges)
    writer.add_bos_token_id(words.end_of_text)
    writer.add_eos_token_id(words.end_of_text)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tiny_model.CHAT_TEMPLATE)

    rng = np.random.default_rng(tiny_model.SEED)
    n_kv = N_EMBD // N_HEAD * N_HEAD_KV

    def matrix(name: str, *shape: int, dtype: type[np.floating] = np.float16) -> None:
        values = rng.standard_normal(shape, dtype=np.float32) / np.float32(shape[-1] ** 0.5)
        writer.add_tensor(f"{name}.weight", values.astype(dtype))

    def ones(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(N_EMBD, dtype=np.float32))

    matrix("token_embd", len(words.tokens), N_EMBD)
    for layer in range(N_LAYER):
        block = f"blk.{layer}"
        ones(f"{block}.attn_norm")
        matrix(f"{block}.attn_q", N_EMBD, N_EMBD)
        matrix(f"{block}.attn_k", n_kv, N_EMBD)
        matrix(f"{block}.attn_v", n_kv, N_EMBD)
        matrix(f"{block}.attn_output", N_EMBD, N_EMBD)
        ones(f"{block}.ffn_norm")
        matrix(f"{block}.ffn_gate_inp", N_EXPERT, N_EMBD, dtype=np.float32)
        matrix(f"{block}.ffn_gate_exps", N_EXPERT, N_FF, N_EMBD)
        matrix(f"{block}.ffn_up_exps", N_EXPERT, N_FF, N_EMBD)
        matrix(f"{block}.ffn_down_exps", N_EXPERT, N_EMBD, N_FF)
    ones("output_norm")
    matrix("output", len(words.tokens), N_EMBD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
