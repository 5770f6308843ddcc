"""Rows of the record of a memory plan, schema 1; docs/records.md says what each key means.

As in :mod:`nexus_tasks.records.benchmark_rows`, a field with a default may be missing in a file. Models, curves and
plans have numbers by which rows after them name them: hosts that are alike share a plan.
"""

from __future__ import annotations

from nexus_tasks.records.benchmark_rows import Header, Machine, Part


class PlanHeader(Header, kw_only=True, tag_field="type", tag="header"):
    """The first row: what was planned, with which engine. ``options`` are those of the command, of a MODEL."""

    engine: str
    options: list[str]
    tag: str | None
    client: Machine


class ModelRow(Part, kw_only=True, tag_field="type", tag="model"):
    """A model as its header describes it; ``types_mib`` is by type of tensor what those take."""

    number: int
    name: str
    file: str
    profile: str | None
    architecture: str
    quantization: str | None
    size_mib: float
    parameters: int
    n_layer: int
    n_ctx_train: int
    types_mib: dict[str, float]


class CurvePoint(Part, kw_only=True):
    """Memory of a context: sums of a GPU with room for all, without what the driver takes."""

    n_ctx: int
    weights_mib: float
    kv_mib: float
    compute_mib: float


class CurveRow(Part, kw_only=True, tag_field="type", tag="curve"):
    """Context against memory of a model; ``options`` are all but the context's length."""

    number: int
    model: int
    options: list[str]
    points: list[CurvePoint]


class PlannedContext(Part, kw_only=True):
    """The context that llama-server makes of its options."""

    n_ctx: int
    n_ctx_seq: int
    parallel: int
    kv_unified: bool
    n_batch: int
    n_ubatch: int
    flash_attn: bool


class PlannedDevice(Part, kw_only=True):
    """Memory of a device, in MiB; the last one is the host, which has those at the end."""

    name: str
    weights_mib: float
    kv_mib: float
    recurrent_mib: float
    compute_mib: float
    overhead_mib: float
    total_mib: float
    free_mib: float | None
    left_mib: float | None
    fits: bool | None
    verdict: str
    mapped_mib: float = 0.0
    weight_buffers_mib: float = 0.0
    prompt_cache_mib: float = 0.0
    checkpoints_mib: float = 0.0


class PlannedRemedy(Part, kw_only=True):
    """A change that would make it fit, and its options."""

    what: str
    options: list[str]


class PlanRow(Part, kw_only=True, tag_field="type", tag="plan"):
    """The plan of a model with options on devices; ``curve`` is the number of its curve."""

    number: int
    model: int
    curve: int | None
    engine: str
    options: list[str]
    context: PlannedContext
    layers_on_gpus: int
    devices: list[PlannedDevice]
    verdict: str
    remedies: list[PlannedRemedy]
    notes: list[str]


class MachineRow(Part, kw_only=True, tag_field="type", tag="host"):
    """The memory of a host. ``source`` is where that is known from: declared, asked, remembered or unknown."""

    host: str
    gpus_mib: list[float]
    memory_mib: float | None
    source: str
    asked_at: str | None


class ServerRow(Part, kw_only=True, tag_field="type", tag="server"):
    """A model that an instance of a host serves; the verdict is about all that the host serves together.

    ``gpus`` are the numbers of those that it may use, in the order of the plan's devices; ``plan`` is None where there
    is none, and ``problem`` says why.
    """

    host: str
    instance: str
    model: str
    plan: int | None
    gpus: list[int]
    verdict: str
    problem: str | None


class PlanSummary(Part, kw_only=True, tag_field="type", tag="summary"):
    """The last row: how many models have which verdict."""

    finished_at: str = ""
    fits: int
    tight: int
    does_not_fit: int
    unknown: int
    wall_s: float
