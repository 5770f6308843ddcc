"""Rows of a deployment's record, schema 1; docs/records.md says what each key means.

As in :mod:`nexus_tasks.records.benchmark_rows`, a field with a default may be missing in a file. Of an instance that is
most of them: what is known of it depends on how far the deployment came.
"""

from __future__ import annotations

from typing import Any

from nexus_tasks.records.benchmark_rows import Header, Part


class Controller(Part, kw_only=True):
    """The user who deployed, and the machine that it was done from."""

    user: str
    host: str


class DeploymentHeader(Header, kw_only=True, tag_field="type", tag="header"):
    """The first row of a deployment."""

    playbook: str
    check: bool
    limit: str | None
    tags: list[str]
    skip_tags: list[str]
    extra_vars: list[str]
    ansible: str
    controller: Controller


class Check(Part, kw_only=True):
    """One check of a proof; ``cause`` is the likely one where it is not ``ok``, else a note."""

    check: str
    ok: bool
    expected: Any = None
    found: Any = None
    cause: str | None = None


class ModelFile(Part, kw_only=True):
    """The file that an instance serves."""

    name: str | None = None
    path: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None


BuffersMib = dict[str, dict[str, float | None]]
"""By device the size of its buffers: ``model``, ``kv``, ``compute``."""


class Placement(Part, kw_only=True):
    """Placement of a model in memory, as logged; ``offloaded`` are the layers on GPUs, and all there are."""

    offloaded: list[int] | None = None
    buffers_mib: BuffersMib | None = None
    projector: str | None = None


class MemoryPart(Part, kw_only=True):
    """A part of a server's memory, as it was planned and as its log has it; ``model`` is one of a router's."""

    device: str
    part: str
    plan_mib: float | None = None
    measured_mib: float | None = None
    model: str | None = None


class ProofRow(Part, kw_only=True):
    """The findings of a server's proof."""

    name: str
    checks: list[Check]
    error: str | None = None
    generation: str | None = None
    runtime: str | None = None
    release: str | None = None
    build: str | None = None
    model: ModelFile | None = None
    url: str | None = None
    pid: int | None = None
    tokens_per_second: float | None = None
    n_ctx: int | None = None
    slots: int | None = None
    offloaded: list[int] | None = None
    buffers_mib: BuffersMib | None = None
    gpu_processes_mib: dict[str, float | None] | None = None
    placements: dict[str, Placement] | None = None
    memory: list[MemoryPart] | None = None
    load_seconds: float | None = None
    log_tail: list[str] | None = None
    log: str | None = None


class InstanceRow(ProofRow, kw_only=True):
    """An instance as a deployment left it, an entry of its host's row. ``restored`` is the old server's proof."""

    state: str
    changed: bool = False
    reason: str | None = None
    downtime_seconds: float | None = None
    drained: bool | None = None
    trial: bool | None = None
    restored: ProofRow | None = None
    removed: bool = False


class FailedTask(Part, kw_only=True):
    """The task at which a host failed."""

    name: str
    role: str | None
    message: str


class HostRow(Part, kw_only=True, tag_field="type", tag="host"):
    """A host as a deployment left it."""

    host: str
    release: str | None
    instances: list[InstanceRow]
    changed: int
    ok: bool
    failed: bool
    unreachable: bool
    failed_task: FailedTask | None
    seconds: float


class CompilerCache(Part, kw_only=True):
    """Compilations that were taken from ccache, and those that were not."""

    hits: int
    misses: int


class BuildFacts(Part, kw_only=True):
    """Facts of the build that a release came from."""

    compiler: str | None
    ccache: CompilerCache | None
    built_on: str
    built_at: str
    build_seconds: float | None
    size: int | None


class ReleaseRow(Part, kw_only=True, tag_field="type", tag="release", rename={"source": "from"}):
    """The release of llama.cpp that a deployment found, made or missed on one host.

    ``source`` is the host that built it. ``inputs`` decide what comes out of the compiler, as the manifest has them.
    """

    host: str
    name: str | None
    how: str
    source: str | None
    inputs: dict[str, Any] | None
    build: BuildFacts | None
    releases: list[str] | None
    removed: list[str]
    error: str | None


class HostCounts(Part, kw_only=True):
    """Numbers of hosts by the end that they came to; ``changed`` are of those that are ``ok``."""

    ok: int
    changed: int
    failed: int
    unreachable: int


class DeploymentSummary(Part, kw_only=True, tag_field="type", tag="summary"):
    """The last row of a deployment."""

    finished_at: str = ""
    ok: bool
    interrupted: bool
    hosts: HostCounts
    wall_s: float
