"""A model in several files as this project puts it on a host, in a real llama-server."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from gguf import GGUFWriter

from nexus_tasks.model_store import tiny_model
from plugins.module_utils.gguf_model.model_file import ModelFile
from tests.conftest import run_server
from tests.roles.file_server import Served, serve


def test_llama_server_finds_all_files_of_a_model_that_was_fetched(
    llama_server_bin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs").mkdir()
    monkeypatch.setattr(tiny_model, "GGUFWriter", functools.partial(GGUFWriter, split_max_tensors=10))
    shape = tiny_model.Shape(n_layer=3, n_embd=128, n_head=4, n_head_kv=2, n_ff=384)
    tiny_model._write_gguf(tmp_path / "theirs/Any.Name.gguf", shape, 1)  # which no command does in several files
    parts = sorted((tmp_path / "theirs").iterdir())
    assert len(parts) > 2
    with serve() as server:
        urls = []
        for part in parts:
            server.files[f"/{part.name}"] = Served(part.read_bytes())
            urls.append({"url": f"{server.url}/{part.name}", "sha256": hashlib.sha256(part.read_bytes()).hexdigest()})
        keys = ("path", "url", "repo", "file", "files", "generator", "sha256")
        params: dict[str, Any] = {
            **dict.fromkeys(("generator_version", "files", "token", "endpoint", "mirror")),
            "name": "mine", "dir": str(tmp_path / "models"),
            "profile": {**dict.fromkeys(keys), "urls": urls, "revision": "main"},
        }  # fmt: skip
        model = ModelFile(params)
        assert model.have() == (True, "fetched")
    assert Path(model.path).name == f"mine-00001-of-{len(parts):05}.gguf"
    with run_server(llama_server_bin, Path(model.path), tmp_path / "server.log") as running:
        body = {"prompt": "one two", "max_tokens": 4}
        answer = httpx.post(f"{running.base_url}/v1/completions", json=body, timeout=60).json()
    assert answer["usage"]["completion_tokens"] == 4
