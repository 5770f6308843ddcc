"""The manifest of a release of llama.cpp, ``<release>/manifest.json``. Python 3.9's standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .stored import Stored, named

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class FileEntry(Stored):
    """A file of a release: bytes, and a checksum."""

    size: int = 0
    sha256: str = ""


@dataclass(frozen=True)
class Manifest(Stored):
    """All that is known of a release. Paths are relative to its folder."""

    name: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """All that decides what comes out of the compiler; the release's name has a hash of it."""
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    """By path what it leads to."""
    size: int = 0
    """Bytes of all files."""
    flags: Mapping[str, str] | None = None
    """The flags of its llama-server, each with the name of its argument; None: made before manifests had them."""
    compiler: str | None = None
    ccache: Mapping[str, int] | None = None
    """``hits`` and ``misses``."""
    built_on: str = ""
    """The name that the machine has for itself."""
    built_at: str = ""
    """UTC, ISO 8601."""
    build_seconds: float | None = None

    PARTS: ClassVar = {"files": named(FileEntry)}
