"""Header of a run over HTTP: the target as it was deployed and as it describes itself, the workload and the load.

    http_header.of_run(target, server, plan, gpus, host_state=None)

``server`` is what :func:`endpoint.probe` says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from nexus_tasks.fleet import locality
from nexus_tasks.fleet.targets import Target
from nexus_tasks.hostlib import masking
from nexus_tasks.measurement.plan import Plan
from nexus_tasks.records import benchmark_rows as rows
from nexus_tasks.records import header
from nexus_tasks.records.benchmark_rows import BenchmarkHeader, HostState, Limits, Load, Planned
from nexus_tasks.servers.endpoint import Endpoint
from nexus_tasks.telemetry import sampling


def of_run(
    target: Target,
    server: Endpoint,
    plan: Plan,
    gpus: sampling.Gpus,
    *,
    host_state: HostState | None,
    partner: str | None = None,
) -> BenchmarkHeader:
    """The header of a run over HTTP.

    Args:
        gpus: of this machine.
        host_state: that of the server's host; None where nothing is known of it.
        partner: the id of the run that is interleaved with this one.
    """
    instance = target.instance
    model: Mapping[str, Any] = (instance.model if instance else None) or {}
    model_path = locality.model_path(target, server)
    local = locality.is_local(target, server)
    size = model.get("size_bytes")
    if size is None and local and model_path:
        with contextlib.suppress(OSError):
            size = Path(model_path).stat().st_size
    return header.benchmark(
        target.name,
        tag=plan.tag,
        endpoint=rows.Endpoint(
            # What the way there looks like at its end: a tunnel's port here is another one each time.
            base_url=instance.base_url if instance else server.base_url,
            host=instance.host if instance else None,
            instance=instance.name if instance else None,
            engine=server.engine,
            model=server.model,
            tunnel=rows.Tunnel(via="ssh", host=target.tunnel) if target.tunnel else None,
            preset=target.external,
        ),
        model=rows.Model(
            name=model.get("name"),
            path=model_path,
            size_bytes=size,
            sha256=model.get("sha256"),
            n_params=server.n_params,
            n_ctx_train=server.n_ctx_train,
        ),
        server=rows.Server(
            build=server.build,
            release=instance.release.get("name") if instance else None,
            argv=masking.argv(instance.argv, target.api_key) if instance else None,
            argv_sha256=instance.argv_sha256 if instance else None,
            n_ctx=server.n_ctx,
            total_slots=server.total_slots,
        ),
        local=local,
        gpus=msgspec.convert(gpus.as_rows(), list[rows.Gpu]),
        nvml_error=gpus.nvml_error,
        host_state=host_state,
        workload=plan.spec.as_row(),
        load=_load(plan, partner),
    )


def _load(plan: Plan, partner: str | None) -> Load:
    keys = ("concurrency", "rate_per_s", "burst", "requests", "duration_s", "ramp_s", "warmup")
    planned = [Planned(**{key: getattr(stage, key) for key in keys}) for stage in plan.stages]
    if plan.spec.lengths:
        for row, length in zip(planned, plan.spec.lengths, strict=True):
            row.prompt_tokens = length
    return header.load(
        "http",
        mode="sweep" if plan.sweep else plan.stages[0].mode,
        axis=plan.axis,
        planned=planned,
        until=plan.until,
        slo=plan.slo,
        limits=Limits(
            token_s=plan.limits.token_s,
            request_s=plan.limits.request_s,
            max_error_rate=plan.limits.max_error_rate,
        ),
        processes=plan.processes or 1,
        rounds=plan.rounds,
        interleaved_with=partner,
    )
