"""Hosts that the tests of a module share: deploying to one costs seconds, booting it a few more."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models of the same content and other names, in a folder of their own that any user can read."""
    shelf = tmp_path_factory.mktemp("shelf")
    for name in ("tiny", "twin"):
        shutil.copyfile(tiny_model, shelf / f"{name}.gguf")
        (shelf / f"{name}.gguf").chmod(0o644)
    shelf.chmod(0o755)
    return {name: shelf / f"{name}.gguf" for name in ("tiny", "twin")}
