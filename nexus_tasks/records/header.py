"""Headers of benchmarks: one builder, over what the engine knows.

    header.benchmark("rig-1/main", tag=None, endpoint=Endpoint(...), ..., load=header.load("http", planned=[...], ...))

:func:`nexus_tasks.records.store.create` adds what tells a record from others: its kind, schema and id, and when it
began. docs/records.md says what each key means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from nexus_tasks.core import provenance
from nexus_tasks.records.benchmark_rows import (
    BenchmarkHeader,
    Client,
    Endpoint,
    Git,
    Gpu,
    HostState,
    Limits,
    Load,
    Model,
    Planned,
    Server,
    Until,
    Workload,
)


def git(root: Path = provenance.ROOT) -> Git:
    """The revision of the project that is measured, or deploys."""
    return msgspec.convert(provenance.git(root), Git)


def benchmark(
    target: str,
    *,
    tag: str | None,
    endpoint: Endpoint,
    model: Model,
    server: Server,
    local: bool,
    gpus: Sequence[Gpu],
    nvml_error: str | None,
    host_state: HostState | None,
    workload: Workload,
    load: Load,
) -> BenchmarkHeader:
    """The header of a measurement. The machine that measures, and the revision of the project, are looked up here.

    Args:
        local: whether the server runs on this machine.
        host_state: that of the server's host; None where nothing is known of it.
    """
    unknown = HostState(driver=None, power_limit_w=None, clocks_max_mhz=None, governor=None)
    return BenchmarkHeader(
        target=target,
        git=git(),
        tag=tag,
        endpoint=endpoint,
        model=model,
        server=server,
        client=msgspec.convert({**provenance.client(), "local": local}, Client),
        gpus=list(gpus),
        nvml_error=nvml_error,
        host_state=host_state or unknown,
        workload=workload,
        load=load,
    )


def load(
    engine: str,
    *,
    mode: str,
    axis: str | None,
    planned: Sequence[Planned],
    until: tuple[str, float] | None = None,
    slo: Mapping[str, float] | None = None,
    limits: Limits | None = None,
    processes: int = 1,
    rounds: int = 1,
    interleaved_with: str | None = None,
    commands: Sequence[Sequence[str]] | None = None,
    servers_beside: Sequence[str] | None = None,
) -> Load:
    """The ``load`` of a measurement's header.

    Args:
        engine: ``http``, or the tool of llama.cpp that measured.
        axis: what differs between the levels.
        planned: the levels.
        until: the metric, and to how many per cent its median was to be known.
        commands: of a tool.
        servers_beside: those that ran on the host while a tool measured.
    """
    return Load(
        engine=engine,
        mode=mode,
        axis=axis,
        planned=list(planned),
        until=Until(metric=until[0], percent=until[1]) if until else None,
        slo=dict(slo or {}),
        limits=limits or Limits(token_s=None, request_s=None, max_error_rate=None),
        processes=processes,
        rounds=rounds,
        commands=None if commands is None else [list(command) for command in commands],
        servers_beside=None if servers_beside is None else list(servers_beside),
        interleaved_with=interleaved_with,
    )
