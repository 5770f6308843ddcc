"""Files that stand on a host about an instance, a dataclass each. Python 3.9's standard library only.

generations/<id>/instance.json   Instance     all that decides a server
state.json                       State        what happened last
proof.json                       ProofRecord  the last good proof
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .stored import Stored, many, named, one, words

# ---- instance.json


@dataclass(frozen=True)
class ModelFile(Stored):
    """A GGUF file; ``name`` is that of its profile."""

    name: str = ""
    path: str = ""
    size_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class RoutedModel(Stored):
    """One of a router's models."""

    path: str = ""
    size_bytes: int | None = None
    sha256: str | None = None
    side_models: tuple[ModelFile, ...] = ()
    mode: str = "completion"
    n_gpu_layers: int | None = None
    uses_gpu: bool = False
    load_on_startup: bool = False

    PARTS: ClassVar = {"side_models": many(ModelFile)}


@dataclass(frozen=True)
class Release(Stored):
    """The release of llama.cpp that an instance runs; ``path`` is its folder."""

    name: str = ""
    path: str = ""
    ref: str = ""
    commit: str = ""
    backend: str = ""


@dataclass(frozen=True)
class Instance(Stored):
    """All that decides a server. A generation is named by a hash of this, before it has a place, and of its files."""

    name: str = ""
    runtime: str = ""
    """systemd, supervisor or docker; in a declaration also auto."""
    argv: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    host: str = ""
    port: int = 0
    local_url: str = ""
    """The address at which it is asked from its own host."""
    model: ModelFile | None = None
    """None for a router."""
    models: Mapping[str, RoutedModel] = field(default_factory=dict)
    """A router's, by name."""
    side_models: tuple[ModelFile, ...] = ()
    """Projectors, draft models and adapters."""
    release: Release = field(default_factory=Release)
    mode: str = "completion"
    """completion, embedding, reranking or router."""
    has_template: bool = False
    ctx_size: int | None = None
    parallel: int | None = None
    n_gpu_layers: int | None = None
    key_names: tuple[str, ...] = ()
    gpus: tuple[str, ...] | None = None
    """Indexes or UUIDs of the GPUs that it may use; None means all."""
    uses_gpu: bool = False
    image: Mapping[str, str] | None = None
    """The parts of its image: ``base``, ``archive`` and ``sha256``, or ``ref``."""

    # What the host adds for its runtime.
    user: str | None = None
    """Whom its server runs as in a container, and under supervisor where root deploys; systemd's unit says it."""
    container: tuple[str, ...] | None = None
    """Options of ``docker create``."""
    unit: str | None = None
    """Text of systemd's unit."""

    # What a generation has.
    id: str = ""
    folder: str = ""
    key_file: str | None = None

    PARTS: ClassVar = {
        "argv": tuple, "model": one(ModelFile), "models": named(RoutedModel), "side_models": many(ModelFile),
        "release": Release.from_json, "key_names": tuple, "gpus": words, "container": words,
    }  # fmt: skip

    def model_as_json(self) -> dict[str, Any] | None:
        return self.model.as_json() if self.model else None

    def model_files(self) -> list[ModelFile | RoutedModel]:
        """The files that its server reads."""
        models: list[ModelFile | RoutedModel] = [self.model] if self.model else list(self.models.values())
        return [*models, *self.side_models]


# ---- state.json


@dataclass(frozen=True)
class State(Stored):
    """The last step that was begun, or how the last one ended."""

    phase: str = "unknown"
    """trial, draining, switching, restoring, verified, refused, restored, failed, stopped; unknown without a file."""
    at: str | None = None
    """UTC, ISO 8601."""
    generation: str | None = None
    """The one that the phase is about."""
    old: str | None = None
    """The one that serves until then; None: none does."""
    port: int | None = None
    """A trial's."""
    error: str | None = None
    restored: str | None = None
    """The reason why the old one does not serve either."""
    runtime: str | None = None
    """The runtime of one that was never proven, where its log is."""


# ---- proof.json


@dataclass(frozen=True)
class Placement(Stored):
    """Placement of one process: the memory that it logged for weights and caches, and its offloaded layers."""

    offloaded: tuple[int, int] | None = None
    """Layers on GPUs, and all layers; None: its log has no line about it."""
    buffers_mib: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By device and kind: model, kv or compute."""
    projector: str | None = None
    """The device of the projector."""

    PARTS: ClassVar = {"offloaded": words}


@dataclass(frozen=True)
class MemoryPart(Stored):
    """A part of a server's memory, as it was planned and as its log has it, in MiB."""

    device: str = ""
    """As the log names it, or ``host`` for all of the processor's."""
    part: str = ""
    """weights, KV or compute."""
    plan_mib: float | None = None
    measured_mib: float | None = None
    """None of a router's model that was not loaded."""
    model: str = ""
    """Of a router, the name of the model."""


@dataclass(frozen=True)
class ProofRecord(Stored):
    """The last good proof, as far as later ones and a status go by it; the rest of its row is in ``other``."""

    generation: str = ""
    model: ModelFile | None = None
    tokens_per_second: float | None = None
    """The last measurement of this generation; None: users had all slots each time."""
    best_tokens_per_second: float | None = None
    """The best of this model on this host."""
    n_ctx: int | None = None
    slots: int | None = None
    slots_by_model: Mapping[str, int] = field(default_factory=dict)
    """A router's, by the names of its models; of one that was not loaded, those of an earlier proof."""
    offloaded: tuple[int, int] | None = None
    buffers_mib: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    placements: Mapping[str, Placement] = field(default_factory=dict)
    """By life of a process: its generation, the runtime's name of that life and, of a router's model, name and port."""

    memory: tuple[MemoryPart, ...] = ()
    """The plan beside it, where there was one."""

    PARTS: ClassVar = {
        "model": one(ModelFile), "offloaded": words, "placements": named(Placement), "memory": many(MemoryPart),
    }  # fmt: skip
