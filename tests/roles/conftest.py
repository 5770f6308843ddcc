"""Fixtures of the roles' tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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
