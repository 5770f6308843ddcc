"""Models for tests of the registry: small files with true headers, a hub that has them, and records of their use."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nexus_tasks.records import store
from nexus_tasks.views.model_uses import Use
from tests.memory_models import Model, attention, layers, network, numbers, outside, write
from tests.roles.file_server import FileServer

REPO = "someone/small-GGUF"
CATALOGUE: dict[str, dict[str, Any]] = {"small": {"repo": REPO, "file": "small-Q4_K_M.gguf"}}


def small(inner: int = 1024) -> Model:
    """A dense model of a few MiB; with more ``inner`` its files are larger, as those of a better quantisation."""
    rows = outside(256, 512) + layers(4, lambda _, b: attention(b, 256, 4, 2, 64) + network(b, 256, inner))
    values = numbers(256, 4, inner, 4, 2, 64)
    return replace(Model("llama", values, rows), values={**values, "context_length": 8192})


def contents(folder: Path) -> dict[str, bytes]:
    """The files of the repository: two quantisations, a projector, one that is no model."""
    return {
        "small-Q4_K_M.gguf": write(folder / "q4.gguf", small()).read_bytes(),
        "small-Q8_0.gguf": write(folder / "q8.gguf", small(4096)).read_bytes(),
        "mmproj-small-F16.gguf": b"GGUF",
        "README.md": b"# small",
    }


def have(hub: FileServer, folder: Path) -> dict[str, bytes]:
    """Let the hub have the repository; the files by name."""
    hub.repositories[REPO] = files = contents(folder)
    return files


def sha256(content: bytes) -> str:
    """The hash of a file."""
    return hashlib.sha256(content).hexdigest()


def use(number: int = 1, kind: str = "benchmark", **more: Any) -> Use:
    """A use as a record tells it."""
    told = {"host": "rig-1", "instance": "main", "model": "small", **more}
    return Use(
        run_id=f"2026112{number}T120000000Z-x-0000", kind=kind, started_at=f"2026-11-2{number}T12:00:00+00:00", **told
    )


def deployments(root: Path) -> Sequence[Path]:
    """The paths of records of deployments below a folder."""
    return store.paths("deployment", root, required=False)
