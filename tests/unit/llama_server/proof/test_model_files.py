"""Hashes of model files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from plugins.module_utils.llama_server.proof.model_files import file_sha256


def test_a_file_is_hashed_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"one")
    first = file_sha256(str(tmp_path), str(file))
    assert first == hashlib.sha256(b"one").hexdigest()
    monkeypatch.setattr(hashlib, "sha256", None)  # reading it again would need it
    assert file_sha256(str(tmp_path), str(file)) == first
    monkeypatch.undo()
    file.write_bytes(b"two")
    assert file_sha256(str(tmp_path), str(file)) == hashlib.sha256(b"two").hexdigest()
