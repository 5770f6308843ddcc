"""The input tensors of a model file."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.module_utils.llama_server.proof.input_tensors import input_mib


def test_the_span_of_the_input_is_read_from_the_header(tiny_model: Path) -> None:
    from gguf import GGUFReader

    tensors = GGUFReader(tiny_model).tensors
    (embedding,) = [tensor for tensor in tensors if tensor.name == "token_embd.weight"]
    assert input_mib(str(tiny_model)) == pytest.approx(embedding.n_bytes / 2**20, abs=32 / 2**20)
