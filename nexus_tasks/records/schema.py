"""Types of the rows of run records. Older rows are upgraded when they are read; the files stay as they are.

    header, rows = schema.upgrade(header, rows)
    schema.check("benchmark", rows[0])

The number is that of a kind's rows, since kinds change at different times. docs/records.md says what each key means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import msgspec

Row = dict[str, Any]

NEWEST = {"benchmark": 2, "deployment": 1}

# --- the rows of today: what readers rely on. Keys that are not here may follow in later versions of the same schema.


class _Git(TypedDict):
    commit: str | None
    dirty: bool | None


class _Endpoint(TypedDict):
    base_url: str
    host: str | None
    instance: str | None
    engine: str
    model: str
    tunnel: Row | None
    preset: str | None


class _Model(TypedDict):
    name: str | None
    path: str | None
    size_bytes: int | None
    sha256: str | None
    n_params: int | None
    n_ctx_train: int | None


class _Server(TypedDict):
    build: str | None
    release: str | None
    argv: list[str] | None
    argv_sha256: str | None
    n_ctx: int | None
    total_slots: int | None


class _Client(TypedDict):
    hostname: str
    os: str
    python: str
    cpu: str | None
    cpu_count: int | None
    memory_mib: float
    local: bool


class _Gpu(TypedDict):
    index: int
    name: str | None
    driver: str | None
    memory_total_mib: float | None


class _HostState(TypedDict):
    driver: str | None
    power_limit_w: list[float | None] | None
    clocks_max_mhz: list[float | None] | None
    governor: str | None


class _Lengths(TypedDict):
    kind: str
    mean: float
    min: NotRequired[float]
    max: NotRequired[float]
    sigma: NotRequired[float]


class _File(TypedDict):
    name: str
    sha256: str
    entries: int


class _Workload(TypedDict):
    preset: str | None
    kind: str
    api: str
    prompt_tokens: _Lengths | None
    output_tokens: _Lengths | None
    prompts: str
    turns: int
    prefix_tokens: int
    lengths: list[int] | None
    file: _File | None
    documents: NotRequired[int | None]  # those of llama.cpp's own tools had none at first
    temperature: float
    ignore_eos: bool
    seed: int | None


class _Plan(TypedDict, total=False):
    concurrency: int | None
    rate_per_s: float | None
    burst: int | None
    requests: int | None
    duration_s: float | None
    ramp_s: float | None
    warmup: int | None
    prompt_tokens: int | None


class _Limits(TypedDict):
    token_s: float | None
    request_s: float | None
    max_error_rate: float | None


class _Load(TypedDict):
    engine: str
    mode: str
    axis: str | None
    planned: list[_Plan]
    until: Row | None
    slo: dict[str, float]
    limits: _Limits
    processes: int
    rounds: int
    interleaved_with: str | None
    commands: list[Any] | None
    servers_beside: list[Any] | None


class _BenchmarkHeader(TypedDict):
    run_id: str
    started_at: str
    target: str
    tag: str | None
    endpoint: _Endpoint
    model: _Model
    server: _Server
    client: _Client
    gpus: list[_Gpu]
    nvml_error: str | None
    host_state: _HostState
    git: _Git
    workload: _Workload
    load: _Load


class _Error(TypedDict):
    kind: str
    message: str


class _Draft(TypedDict):
    n: int
    accepted: int


class _Timings(TypedDict):
    prompt_n: int | None
    prompt_ms: float | None
    predicted_n: int | None
    predicted_ms: float | None
    cache_n: int | None


class _Request(TypedDict):
    index: int
    stage: int
    round: NotRequired[int]  # likewise
    phase: str
    key: str | None
    conversation: int | None
    turn: int
    worker: int
    intended_s: float | None
    start_s: float | None
    late_ms: float | None
    ok: bool
    error: _Error | None
    prompt_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    cached_tokens: int | None
    draft: _Draft | None
    finish_reason: str | None
    backend: str | None
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
    server: _Timings | None


class _GpuState(TypedDict):
    index: int
    utilization_percent: float | None
    memory_used_mib: float | None
    power_w: float | None
    temperature_c: float | None
    power_limit_w: float | None
    clock_mhz: float | None
    throttled: list[str] | None
    energy_j: float | None


class _ServerState(TypedDict):
    slots_busy: int | None
    slots: int | None
    waiting: int | None
    prompt_tokens_total: float | None
    predicted_tokens_total: float | None


class _Sample(TypedDict):
    source: str
    t_s: float
    cpu_percent: float | None
    memory_used_mib: float | None
    gpus: list[_GpuState]
    server: _ServerState | None


class _Watch(TypedDict):
    begun_s: float
    ended_s: float
    stopped: str | None
    in_flight: float | None
    in_flight_asked: float | None
    processes: int
    cpu_per_process: float
    lag_ms: dict[str, float | None]
    late_ms: dict[str, float | None]
    valid: bool
    reasons: list[str]


class _Figures(TypedDict):
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
    ci: dict[str, list[float] | None] | None


class _Throughput(TypedDict):
    output_tps: float | None
    prompt_tps: float | None
    total_tps: float | None
    requests_per_s: float | None


class _Goodput(TypedDict):
    requests_per_s: float | None
    share: float


class _Measured(TypedDict):
    requests: int
    failed: int
    short: int
    stalls: int
    metrics: dict[str, _Figures | None]
    throughput: _Throughput | None
    goodput: _Goodput | None


class _Stage(_Measured):
    stage: int
    round: NotRequired[int]  # likewise
    concurrency: int | None
    rate_per_s: float | None
    prompt_tokens: int | None
    watch: _Watch | None


class _Agreement(TypedDict):
    client_decode_ms: float
    server_decode_ms: float
    difference_percent: float


class _Energy(TypedDict):
    joules: float
    joules_per_token: float | None
    source: str


class _BenchmarkSummary(_Measured):
    finished_at: str
    ok: bool
    valid: bool
    reasons: list[str]
    interrupted: bool
    stopped: str | None
    wall_s: float
    knee: int | None
    agreement: _Agreement | None
    energy: _Energy | None


class _Controller(TypedDict):
    user: str
    host: str


class _DeploymentHeader(TypedDict):
    run_id: str
    started_at: str
    target: str
    limit: str | None
    playbook: str
    check: bool
    tags: list[str]
    skip_tags: list[str]
    extra_vars: list[str]
    ansible: str
    git: _Git
    controller: _Controller


class _Instance(TypedDict):
    name: str
    state: str
    changed: bool
    checks: list[Row]
    error: str | None


class _FailedTask(TypedDict):
    name: str
    role: str | None
    message: str


class _Host(TypedDict):
    host: str
    seconds: float
    ok: bool
    failed: bool
    unreachable: bool
    changed: int
    failed_task: _FailedTask | None
    release: str | None
    instances: list[_Instance]


_Release = TypedDict("_Release", {
    "host": str, "name": str | None, "how": str, "from": str | None, "inputs": Row | None, "build": Row | None,
    "releases": list[str], "removed": list[str], "error": str | None,
})  # fmt: skip


class _Hosts(TypedDict):
    ok: int
    changed: int
    failed: int
    unreachable: int


class _DeploymentSummary(TypedDict):
    finished_at: str
    ok: bool
    interrupted: bool
    wall_s: float
    hosts: _Hosts


ROWS: dict[str, dict[str, Any]] = {
    "benchmark": {
        "header": _BenchmarkHeader, "request": _Request, "sample": _Sample, "stage": _Stage,
        "summary": _BenchmarkSummary,
    },
    "deployment": {
        "header": _DeploymentHeader, "host": _Host, "release": _Release, "summary": _DeploymentSummary,
    },
}  # fmt: skip
"""By kind the rows that its records have."""


def check(kind: str, row: Mapping[str, Any]) -> None:
    """Hold a row of one of a kind's types against the newest schema.

    Raises:
        ValueError: it lacks a key, or a value is of another type; the message says which.
    """
    try:
        msgspec.convert(row, ROWS[kind][row["type"]])
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace("Object missing required field", "it lacks")) from error


# --- the rows of before


def upgrade(header: Row, rows: Sequence[Row]) -> tuple[Row, list[Row]]:
    """The rows of a record in the newest schema of its kind; ``header`` is one of them, ``rows`` are the others."""
    kind, rows = header["kind"], list(rows)
    while header["schema"] < NEWEST[kind]:
        header, rows = _STEPS[kind, header["schema"]](header, rows)
    return header, rows


def _benchmark_2(header: Row, rows: Sequence[Row]) -> tuple[Row, list[Row]]:
    """Schema 1 knew requests that go out one after another, and nothing else: one stage with one user."""
    work = header["workload"]
    sizes = {name: {"kind": "fixed", "mean": work[name]} for name in ("prompt_tokens", "output_tokens")}
    planned = {"concurrency": 1, "requests": work.get("runs"), "warmup": work.get("warmup"), "ramp_s": 0.0}
    upgraded = {
        **header,
        "schema": 2,
        "endpoint": {**header["endpoint"], "tunnel": None, "preset": None},
        "workload": {
            "preset": work["preset"], "kind": "synthetic", "api": work["api"], **sizes, "prompts": work["prompts"],
            "turns": 1, "prefix_tokens": 0, "lengths": None, "file": None, "documents": None,
            "temperature": work["temperature"], "ignore_eos": work["ignore_eos"], "seed": None,
        },
        "load": {
            "engine": "http", "mode": "closed", "axis": None, "planned": [planned], "until": None, "slo": {},
            "limits": {"token_s": None, "request_s": None, "max_error_rate": None}, "processes": 1,
            "rounds": 1, "interleaved_with": None, "commands": None, "servers_beside": None,
        },
        "tag": None,
        "host_state": {"driver": None, "power_limit_w": None, "clocks_max_mhz": None, "governor": None},
    }  # fmt: skip
    turned = {"request": _request_2, "sample": _sample_2, "summary": _summary_2}
    return upgraded, [turned.get(row["type"], dict)(row) for row in rows]


def _request_2(row: Row) -> Row:
    server = row.get("server") or {}
    ttft_ms, prompt_ms = row.get("ttft_ms"), server.get("prompt_ms")
    decode_ms, tokens = row.get("decode_ms"), row.get("output_tokens")
    return {
        **row,
        "stage": 0, "round": 0, "key": None, "conversation": row["index"], "turn": 0, "worker": 0,
        "intended_s": row.get("start_s"), "late_ms": 0.0,
        "reasoning_tokens": None, "cached_tokens": server.get("cache_n"), "draft": None, "ttft_visible_ms": None,
        "queue_ms": ttft_ms - prompt_ms if ttft_ms is not None and prompt_ms is not None else None,
        "tpot_ms": decode_ms / (tokens - 1) if decode_ms is not None and tokens and tokens > 1 else None,
        "stalls": 0, "backend": None,
    }  # fmt: skip


def _sample_2(row: Row) -> Row:
    gpus = [
        {**gpu, "power_limit_w": None, "clock_mhz": None, "throttled": None, "energy_j": None}
        for gpu in row.get("gpus") or []
    ]
    return {**row, "source": "client", "gpus": gpus, "server": None}


def _summary_2(row: Row) -> Row:
    def figures(old: Row | None) -> Row | None:
        return None if old is None else {**old, "ci": None}

    return {
        **row,
        "valid": True, "reasons": [], "stopped": None, "short": 0, "stalls": 0, "throughput": None, "goodput": None,
        "knee": None, "energy": None,
        "metrics": {name: figures(old) for name, old in row["metrics"].items()},
    }  # fmt: skip


_STEPS: dict[tuple[str, int], Callable[[Row, Sequence[Row]], tuple[Row, list[Row]]]] = {("benchmark", 1): _benchmark_2}
