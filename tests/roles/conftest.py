"""Fixtures of the roles' tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.roles.machine import Machine


@pytest.fixture
def machine(release: Path, tiny_model: Path, tmp_path: Path) -> Iterator[Machine]:
    here = Machine(tmp_path, release, tiny_model)
    yield here
    here.shut_down()
