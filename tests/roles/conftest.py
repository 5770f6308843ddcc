"""Fixtures of the roles' tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nexus_tasks.model_store import tiny_model as tiny_model_file
from tests.roles import llama_cpp_tree
from tests.roles.llama_cpp_tree import Tree
from tests.roles.machine import Machine


@pytest.fixture
def machine(release: Path, tiny_model: Path, tmp_path: Path) -> Iterator[Machine]:
    here = Machine(tmp_path, release, tiny_model)
    yield here
    here.shut_down()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A small source that has the shape of llama.cpp's."""
    return llama_cpp_tree.make(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small real GGUF file."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    shape = tiny_model_file.Shape(n_layer=1, n_embd=64, n_head=2, n_head_kv=1, n_ff=64)
    tiny_model_file.write(path, shape=shape)
    return path.read_bytes()
