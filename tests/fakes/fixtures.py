"""Fixtures: GPUs that are not there, and a model with experts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes import tiny_moe
from tests.fakes.gpus import FakeGpus, Gpu, build

MakeGpus = Callable[..., FakeGpus]


@pytest.fixture(scope="session")
def gpu_backend(release: Path) -> Path:
    """The folder with the backend for the release of the tests, compiled on the first run."""
    return build(release)


@pytest.fixture
def make_gpus(gpu_backend: Path, tmp_path: Path) -> MakeGpus:
    """Makes the GPUs of this machine: ``make_gpus(Gpu(), Gpu("NVIDIA T4", "7.5", 15360), delay_ms=5)``."""

    def make(*gpus: Gpu, **settings: object) -> FakeGpus:
        return FakeGpus.make(tmp_path / "gpus", gpu_backend, gpus or (Gpu(),), **settings)

    return make


@pytest.fixture(scope="session")
def moe_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small mixture of experts."""
    path = tmp_path_factory.mktemp("moe") / "tiny-moe.gguf"
    tiny_moe.write(path)
    return path
