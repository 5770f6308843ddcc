"""The input tensors of a model file."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.module_utils.llama_server.errors import HostError
from plugins.module_utils.llama_server.proof.input_tensors import input_mib


def test_the_span_of_the_input_is_read_from_the_header(tiny_model: Path) -> None:
    from gguf import GGUFReader

    tensors = GGUFReader(tiny_model).tensors
    (embedding,) = [tensor for tensor in tensors if tensor.name == "token_embd.weight"]
    assert input_mib(str(tiny_model)) == pytest.approx(embedding.n_bytes / 2**20, abs=32 / 2**20)


@pytest.mark.parametrize(("size", "reason"), [(0, "is not a GGUF file"), (20, "is truncated"), (300, "is truncated")])
def test_a_file_without_a_whole_header_is_told_with_its_path(
    tmp_path: Path, tiny_model: Path, size: int, reason: str
) -> None:
    (tmp_path / "cut.gguf").write_bytes(tiny_model.read_bytes()[:size])
    with pytest.raises(HostError, match=rf"^{tmp_path}/cut\.gguf {reason}"):
        input_mib(str(tmp_path / "cut.gguf"))
