"""Rows of a benchmark's record, schema 2; docs/records.md says what each key means.

Each class is a row or a part of one, each field a key. A field with a default may be missing in a file, all others are
always there, null where the value is unknown. Moments are seconds after the run began.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Part(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A part of a row."""


# --- header


class Git(Part, kw_only=True):
    """The revision of the project."""

    commit: str | None
    dirty: bool | None


class Header(Part, kw_only=True, tag_field="type", tag="header"):
    """The part that the header of each kind has. :func:`nexus_tasks.records.store.create` sets the first four."""

    schema: int = 0
    kind: str = ""
    run_id: str = ""
    started_at: str = ""
    target: str
    git: Git


class Tunnel(Part, kw_only=True):
    """The way to a server that listens on loopback of its host."""

    via: str
    host: str


class Endpoint(Part, kw_only=True):
    """The server as it is reached."""

    base_url: str
    host: str | None
    instance: str | None
    engine: str
    model: str
    tunnel: Tunnel | None
    preset: str | None


class Model(Part, kw_only=True):
    """The model, as far as inventory and server tell."""

    name: str | None
    path: str | None
    size_bytes: int | None
    sha256: str | None
    n_params: int | None
    n_ctx_train: int | None


class Server(Part, kw_only=True):
    """The server as it was deployed, and as it describes itself. ``n_ctx`` is that of a slot."""

    build: str | None
    release: str | None
    argv: list[str] | None
    argv_sha256: str | None
    n_ctx: int | None
    total_slots: int | None


class Machine(Part, kw_only=True):
    """The machine that a command ran on."""

    hostname: str
    os: str
    python: str
    cpu: str | None
    cpu_count: int | None
    memory_mib: float


class Client(Machine, kw_only=True):
    """The machine that measured; ``local`` where the server runs on it."""

    local: bool


class Gpu(Part, kw_only=True):
    """A GPU of the client's machine."""

    index: int
    name: str | None
    driver: str | None
    memory_total_mib: float | None


class HostState(Part, kw_only=True):
    """Settings of the server's machine that decide its speed and can change; lists have one entry a GPU."""

    driver: str | None
    power_limit_w: list[float | None] | None
    clocks_max_mhz: list[float | None] | None
    governor: str | None


class Lengths(Part, kw_only=True):
    """The lengths of prompts or answers, in tokens: fixed, uniform or lognormal."""

    kind: str
    mean: float
    min: float | None = None
    max: float | None = None
    sigma: float | None = None


class File(Part, kw_only=True):
    """A file of prompts."""

    name: str
    sha256: str
    entries: int


class Workload(Part, kw_only=True):
    """The requests that the server was asked for."""

    preset: str | None
    kind: str
    prompt_tokens: Lengths | None
    output_tokens: Lengths | None
    api: str
    prompts: str
    turns: int
    prefix_tokens: int
    lengths: list[int] | None
    file: File | None
    documents: int | None
    temperature: float
    ignore_eos: bool
    seed: int | None


class Planned(Part, kw_only=True):
    """A stage as it was planned, with what applies."""

    concurrency: int | None = None
    rate_per_s: float | None = None
    burst: int | None = None
    requests: int | None = None
    duration_s: float | None = None
    ramp_s: float | None = None
    warmup: int | None = None
    prompt_tokens: int | None = None


class Until(Part, kw_only=True):
    """The metric whose median was to be known, and to how many per cent."""

    metric: str
    percent: float


class Limits(Part, kw_only=True):
    """Limits beyond which a request, or a stage, is given up."""

    token_s: float | None
    request_s: float | None
    max_error_rate: float | None


class Load(Part, kw_only=True):
    """The load: in what way requests were sent."""

    engine: str
    mode: str
    axis: str | None
    planned: list[Planned]
    until: Until | None
    slo: dict[str, float]
    limits: Limits
    processes: int
    rounds: int
    commands: list[list[str]] | None
    servers_beside: list[str] | None
    interleaved_with: str | None


class BenchmarkHeader(Header, kw_only=True, tag_field="type", tag="header"):
    """The first row of a benchmark."""

    tag: str | None
    endpoint: Endpoint
    model: Model
    server: Server
    client: Client
    gpus: list[Gpu]
    nvml_error: str | None
    host_state: HostState
    workload: Workload
    load: Load


# --- what is measured


class Error(Part, kw_only=True):
    """The reason why a request failed; ``retry_after_s`` where the server asked for a pause."""

    kind: str
    message: str
    retry_after_s: float | None = None


class Draft(Part, kw_only=True):
    """Tokens that a draft proposed, and how many of them were taken."""

    n: int
    accepted: int | None


class Timings(Part, kw_only=True):
    """llama-server's own timings of a request."""

    prompt_n: int | None
    prompt_ms: float | None
    predicted_n: int | None
    predicted_ms: float | None
    cache_n: int | None


class RequestRow(Part, kw_only=True, tag_field="type", tag="request"):
    """One request, failed ones too."""

    index: int
    stage: int
    round: int
    phase: str
    key: str | None
    conversation: int | None
    turn: int
    worker: int
    intended_s: float | None
    start_s: float | None
    late_ms: float | None
    ok: bool
    error: Error | None
    prompt_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    cached_tokens: int | None
    draft: Draft | None
    finish_reason: str | None
    ttft_ms: float | None
    ttft_visible_ms: float | None
    queue_ms: float | None
    decode_ms: float | None
    total_ms: float | None
    tpot_ms: float | None
    itl_ms: list[float]
    stalls: int
    decode_tps: float | None
    prefill_tps: float | None
    server: Timings | None
    backend: str | None
    untimed: str | None = None
    prompt: str | None = None
    answer: str | None = None


class GpuState(Part, kw_only=True):
    """A GPU at one moment; ``energy_j`` is a counter."""

    index: int
    utilization_percent: float | None
    memory_used_mib: float | None
    power_w: float | None
    temperature_c: float | None
    power_limit_w: float | None
    clock_mhz: float | None
    throttled: list[str] | None
    energy_j: float | None


class ServerState(Part, kw_only=True):
    """A server at one moment; totals are counters."""

    slots_busy: int | None
    slots: int | None
    waiting: int | None
    prompt_tokens_total: float | None
    predicted_tokens_total: float | None


class SampleRow(Part, kw_only=True, tag_field="type", tag="sample"):
    """Telemetry at one moment, of the client's machine or of a target."""

    source: str
    t_s: float
    cpu_percent: float | None
    memory_used_mib: float | None
    gpus: list[GpuState]
    server: ServerState | None


# --- what it comes to


class Intervals(Part, kw_only=True):
    """95 % confidence intervals, as [low, high]."""

    median: list[float] | None
    mean: list[float] | None
    p95: list[float] | None
    p99: list[float] | None


class Figures(Part, kw_only=True):
    """The figures of one metric, in its unit. Percentiles from 20 points on, ``points`` below."""

    n: int
    min: float
    max: float
    mean: float
    median: float
    stdev: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    points: list[float] | None
    ci: Intervals | None


class Throughput(Part, kw_only=True):
    """Rates over the time in which requests counted; prompt tokens from the cache are none."""

    output_tps: float | None
    requests_per_s: float | None
    prompt_tps: float | None
    total_tps: float | None


class Goodput(Part, kw_only=True):
    """Requests that kept all objectives: their rate, and their share of those that were tried."""

    requests_per_s: float | None
    share: float | None


class Measured(Part, kw_only=True):
    """Figures of some requests. ``requests``, ``failed`` and ``short`` count all phases, the others only ``run``."""

    metrics: dict[str, Figures | None]
    throughput: Throughput | None
    goodput: Goodput | None
    requests: int
    failed: int
    short: int
    stalls: int


class Percentiles(Part, kw_only=True):
    """Delays in ms."""

    p50: float | None
    p99: float | None
    max: float | None


class Watch(Part, kw_only=True):
    """The load generator's health in a stage; ``valid`` says whether the stage's figures are the server's.

    ``begun_s`` and ``ended_s`` bound the requests that count. ``in_flight`` is the mean number of requests under way
    while there were more to begin; None where that was no time at all. ``cpu_per_process`` is the share of a core (0-1)
    of the busiest process, ``cpu_s`` what all of them used. ``late_ms`` is how much later than intended requests were
    sent, time to connect included.
    """

    begun_s: float
    ended_s: float
    stopped: str | None
    in_flight: float | None
    in_flight_asked: float | None
    cpu_per_process: float
    cpu_s: float | None = None
    processes: int
    lag_ms: Percentiles
    late_ms: Percentiles
    valid: bool
    reasons: list[str]


class StageRow(Measured, kw_only=True, tag_field="type", tag="stage"):
    """One level of load, when it has ended. ``watch`` is null where one of llama.cpp's own tools measured."""

    stage: int
    round: int
    concurrency: int | None
    rate_per_s: float | None
    prompt_tokens: int | None
    watch: Watch | None


class Agreement(Part, kw_only=True):
    """Sums of decode times, by the client and by the server, over the requests that have both."""

    client_decode_ms: float
    server_decode_ms: float
    difference_percent: float


class Energy(Part, kw_only=True):
    """Energy of the server's GPUs while requests counted, and where the readings came from."""

    joules: float
    joules_per_token: float | None
    source: str


class BenchmarkSummary(Measured, kw_only=True, tag_field="type", tag="summary"):
    """The last row of a benchmark: the verdict, and the figures of all stages. ``knee`` is the number of a stage."""

    finished_at: str = ""
    ok: bool
    valid: bool
    reasons: list[str]
    interrupted: bool
    stopped: str | None
    wall_s: float
    knee: int | None
    agreement: Agreement | None
    energy: Energy | None


def fields(part: msgspec.Struct | None) -> dict[str, Any]:
    """The fields of a part by name, as they are: parts of it are not turned into dicts. None has none."""
    return {} if part is None else {name: getattr(part, name) for name in part.__struct_fields__}
