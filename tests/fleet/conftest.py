"""Hosts that the tests of a module share: deploying to one costs seconds, booting it a few more."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def models(small_model: Path) -> dict[str, Path]:
    """Two models of the same content and other names, in a folder of their own that any user can read."""
    twin = small_model.with_name("twin.gguf")
    shutil.copy(small_model, twin)
    return {"tiny": small_model, "twin": twin}
