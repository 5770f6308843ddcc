"""The tiny model as a file: what the gguf package reads back from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFReader, TokenType

from nexus_tasks.core.errors import UsageError
from nexus_tasks.model_store import tiny_model

SMALL = tiny_model.Shape(n_layer=1, n_embd=64, n_head=2, n_head_kv=1, n_ff=64)


def field(reader: GGUFReader, name: str) -> object:
    """The value of a metadata key."""
    found = reader.get_field(name)
    assert found is not None, f"{name} is not in the file"
    return found.contents()


def test_two_writes_give_the_same_bytes_and_their_sha256(tmp_path: Path) -> None:
    first = tiny_model.write(tmp_path / "first.gguf", shape=SMALL)
    second = tiny_model.write(tmp_path / "second.gguf", shape=SMALL)
    assert first == second
    assert (tmp_path / "first.gguf").read_bytes() == (tmp_path / "second.gguf").read_bytes()
    assert tiny_model.write(tmp_path / "third.gguf", shape=SMALL, seed=1) != first


def test_every_token_but_the_end_is_ascii_and_no_two_are_alike(tmp_path: Path) -> None:
    tiny_model.write(tmp_path / "tiny.gguf", shape=SMALL)
    reader = GGUFReader(tmp_path / "tiny.gguf")
    tokens = field(reader, "tokenizer.ggml.tokens")
    types = field(reader, "tokenizer.ggml.token_type")
    assert isinstance(tokens, list)
    assert isinstance(types, list)
    assert types == [TokenType.NORMAL] * (len(tokens) - 1) + [TokenType.CONTROL]
    decoded = ["".join(chr(ord(c) - 256) if ord(c) > 256 else c for c in token) for token in tokens[:-1]]
    assert all(text.isascii() for text in decoded)
    assert len(set(decoded)) == len(decoded)
    assert {chr(code) for code in range(32, 127)} | set("\t\n\r") <= set(decoded)


def test_every_merge_joins_two_tokens_into_a_third() -> None:
    words = tiny_model.vocabulary()
    known = set(words.tokens)
    for merge in words.merges:
        left, right = merge.split(" ")
        assert {left, right, left + right} <= known


def test_the_file_is_a_llama_model_with_a_name_a_template_and_room_for_long_prompts(tmp_path: Path) -> None:
    tiny_model.write(tmp_path / "tiny.gguf")
    reader = GGUFReader(tmp_path / "tiny.gguf")
    assert field(reader, "general.architecture") == "llama"
    assert field(reader, "general.name") == tiny_model.NAME
    assert field(reader, "tokenizer.chat_template") == tiny_model.CHAT_TEMPLATE
    context = field(reader, "llama.context_length")
    assert isinstance(context, int)
    assert context >= 8192
    assert (tmp_path / "tiny.gguf").stat().st_size < 80e6


def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left_there(tmp_path: Path) -> None:
    (tmp_path / "taken.gguf").mkdir()
    with pytest.raises(UsageError, match=r"taken\.gguf"):
        tiny_model.write(tmp_path / "taken.gguf", shape=SMALL)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="can't be written"):
        tiny_model.write(tmp_path / "file" / "tiny.gguf", shape=SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.gguf"]


def test_the_command_prints_the_hash_and_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "tiny.gguf"
    assert tiny_model.main([str(output)]) == 0
    digest, name = capsys.readouterr().out.split()
    assert (len(digest), name) == (64, str(output))
