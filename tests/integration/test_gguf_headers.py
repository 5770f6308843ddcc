"""The reader of GGUF headers, held against llama.cpp's own, of the release that the tests run."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.model_store import tiny_model
from plugins.module_utils.hostlib import gguf
from plugins.module_utils.hostlib.tensor_types import TENSOR_TYPES, TensorType
from tests.conftest import ROOT
from tests.damaged_gguf import damaged

SMALL = tiny_model.Shape(n_layer=1, n_embd=64, n_head=2, n_head_kv=1, n_ff=64)


def theirs(
    llama_server_bin: Path, *, files: list[Path] | None = None, types: list[int] | None = None
) -> dict[str, Any]:
    """What llama.cpp says of files and types, as tests/llama_gguf.py tells it."""
    command = [sys.executable, "-m", "tests.llama_gguf", str(llama_server_bin.parent / "libggml-base.so")]
    asked = json.dumps({"files": list(map(str, files or [])), "types": types or []})
    done = subprocess.run(command, input=asked.encode(), cwd=ROOT, capture_output=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def ours(path: Path) -> tuple[list[int] | None, str]:
    """The same of a file, and why it is refused."""
    try:
        header = gguf.read_header(str(path))
    except gguf.GgufError as error:
        return None, str(error)
    return [header.data_start, len(header.tensors)], ""


def test_llama_cpp_knows_the_same_types_by_the_same_names_and_sizes(llama_server_bin: Path, tmp_path: Path) -> None:
    files = []
    for kind in range(64):
        name = struct.pack("<Q", 1) + b"a"
        header = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + name + struct.pack("<IQIQ", 1, 256, kind, 0)
        files.append(tmp_path / str(kind))
        files[-1].write_bytes(header + bytes(-len(header) % 32 + 256 * 8))
    taken = theirs(llama_server_bin, files=files)["files"]
    assert {kind for kind, header in enumerate(taken) if header} == set(TENSOR_TYPES)
    known = theirs(llama_server_bin, types=list(TENSOR_TYPES))["types"]
    assert [TensorType(*row) for row in known] == list(TENSOR_TYPES.values())


def test_what_llama_cpp_refuses_is_refused_and_what_it_reads_is_read_alike(
    llama_server_bin: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.gguf"
    tiny_model.write(whole, shape=SMALL)
    start = gguf.read_header(str(whole)).data_start
    files = [whole]
    for number, content in enumerate(damaged(whole.read_bytes(), start, 400)):
        files.append(tmp_path / f"{number}.gguf")
        files[-1].write_bytes(content)
    seen = set()
    for path, their in zip(files, theirs(llama_server_bin, files=files)["files"], strict=True):
        our, why = ours(path)
        if "is truncated: header says" in why:
            continue  # of data that is missing llama.cpp knows when it comes to load it
        newer = our and any(one.type not in TENSOR_TYPES for one in gguf.read_header(str(path)).tensors)
        assert our == their or (newer and their is None), f"{path}: {why}"
        seen.add(their is None)
    assert seen == {True, False}


@pytest.mark.parametrize("kind", [256, 0xFFFFFFFF])
def test_a_type_that_no_version_will_have_is_damage(tmp_path: Path, kind: int) -> None:
    name = struct.pack("<Q", 1) + b"a"
    (tmp_path / "m").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + name + struct.pack("<IQIQ", 1, 32, kind, 0))
    assert f"is damaged: tensor 'a' has data of type {kind}" in ours(tmp_path / "m")[1]
