"""Header of a run of llama.cpp's own tools."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from nexus_tasks.fleet.inventory import Instance
from nexus_tasks.hostlib import masking
from nexus_tasks.measurement.llama_bench.tool_plan import BATCHED, ToolPlan
from nexus_tasks.records import benchmark_rows as rows
from nexus_tasks.records import header
from nexus_tasks.records.benchmark_rows import BenchmarkHeader, HostState, Load, Planned
from nexus_tasks.workloads import sizes
from nexus_tasks.workloads.workload import Spec

Row = dict[str, Any]


def of_run(
    asked: ToolPlan, instance: Instance, answer: Mapping[str, Any], *, beside: Sequence[str], tag: str | None
) -> BenchmarkHeader:
    """The header of a run.

    Args:
        answer: what playbooks/raw.yml wrote: the tool's lines, and the GPUs and the state of the host.
        beside: the servers that ran beside the tool.
    """
    model, release = instance.model or {}, instance.release
    tool: Row = next((json.loads(line["text"]) for line in answer["lines"] if line["text"].startswith("{")), {})
    ref, commit = str(release.get("ref")), str(release.get("commit"))
    spec = Spec(
        prompt_tokens=sizes.fixed(asked.prompt_tokens), output_tokens=sizes.fixed(asked.output_tokens),
        api="completion", temperature=0,
    )  # fmt: skip
    return header.benchmark(
        instance.target,
        tag=tag,
        endpoint=rows.Endpoint(
            base_url=instance.base_url,
            host=instance.host,
            instance=instance.name,
            engine="llama.cpp",
            model=str(model.get("name")),
            tunnel=None,
            preset=None,
        ),
        model=rows.Model(
            name=model.get("name"),
            path=model.get("path"),
            size_bytes=model.get("size_bytes"),
            sha256=model.get("sha256"),
            n_params=tool.get("model_n_params"),
            n_ctx_train=None,
        ),
        server=rows.Server(
            # As /props of the server says it.
            build=f"{ref}-{commit[:9]}" if re.fullmatch(r"b\d+", ref) else None,
            release=release.get("name"),
            argv=masking.argv(instance.argv, instance.api_key),
            argv_sha256=instance.argv_sha256,
            n_ctx=None,
            total_slots=None,
        ),
        local=instance.here,
        gpus=msgspec.convert(answer.get("gpus", []), list[rows.Gpu]),
        nvml_error=None,
        host_state=msgspec.convert(answer.get("host_state"), HostState | None),
        workload=spec.as_row(),
        load=_load(asked, beside),
    )


def _load(asked: ToolPlan, beside: Sequence[str]) -> Load:
    warmup = 1 if asked.engine == BATCHED else 0
    return header.load(
        asked.engine,
        mode="closed",
        axis="concurrency" if len(asked.concurrencies) > 1 else None,
        planned=[
            Planned(concurrency=level, requests=asked.repetitions, warmup=warmup, ramp_s=0.0)
            for level in asked.concurrencies
        ],
        commands=asked.commands,
        servers_beside=beside,
    )
