"""Memory of a host for servers, and the headers of models that lie there."""

from __future__ import annotations

import os
from pathlib import Path

from plugins.module_utils.hostlib.gguf_json import header_from_json
from plugins.module_utils.hostlib.instances import Instance
from plugins.module_utils.llama_server.memory import headers_of, private_mib, visible
from tests.memory_model_list import MODELS
from tests.memory_models import write


def test_headers_are_told_or_what_is_wrong_with_them(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", MODELS["qwen3"])
    [file] = headers_of(str(path))["files"]
    assert header_from_json(file).values["general.architecture"] == "qwen3"
    path.write_bytes(b"<!doctype html>")
    assert "m.gguf" in headers_of(str(path))["problem"]
    assert headers_of("/nonexistent/m.gguf") == {
        "problem": "/nonexistent/m.gguf can't be read: No such file or directory"
    }


def test_a_process_gives_back_what_it_alone_holds() -> None:
    before = private_mib(os.getpid())
    held = bytearray(os.urandom(1 << 20) * 64)
    assert 60 < private_mib(os.getpid()) - before < 80
    assert len(held) == 64 << 20
    assert private_mib(2**22 + 1) == 0.0


def test_gpus_are_those_that_an_instance_sees_in_its_order() -> None:
    uuids = ["GPU-a", "GPU-b", "GPU-c"]
    assert visible(None, uuids) == visible(Instance(), uuids) == uuids
    assert visible(Instance(gpus=("2", "GPU-a")), uuids) == ["GPU-c", "GPU-a"]
