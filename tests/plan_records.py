"""Records of memory plans, as tests write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from nexus_tasks.records import store
from nexus_tasks.records.benchmark_rows import Git, Machine, Part
from nexus_tasks.records.plan_rows import (
    CurvePoint,
    CurveRow,
    MachineRow,
    ModelRow,
    PlanHeader,
    PlannedContext,
    PlannedDevice,
    PlannedRemedy,
    PlanRow,
    PlanSummary,
    ServerRow,
)

CLIENT = Machine(hostname="desk", os="Debian", python="3.11.2", cpu=None, cpu_count=2, memory_mib=8192)


def machine(
    host: str, gpus_mib: Sequence[float], source: str, asked_at: str | None, memory_mib: float | None = None
) -> MachineRow:
    return MachineRow(host=host, gpus_mib=list(gpus_mib), memory_mib=memory_mib, source=source, asked_at=asked_at)


def model(number: int, name: str = "gpt-oss-20b", **more: Any) -> ModelRow:
    about = {"profile": name, "architecture": "gpt-oss", "quantization": "MXFP4", "file": f"/models/{name}.gguf"}
    return ModelRow(
        **{**about, **more}, number=number, name=name, size_mib=11000, parameters=21_000_000_000, n_layer=24,
        n_ctx_train=131072, types_mib={"mxfp4": 10000, "f32": 1000},
    )  # fmt: skip


def curve(number: int, of: int = 0, *, kv_mib: float = 100) -> CurveRow:
    points = [
        CurvePoint(n_ctx=4096 * step, weights_mib=10700, kv_mib=kv_mib * step, compute_mib=50 + step)
        for step in (1, 4, 8, 32)
    ]
    return CurveRow(number=number, model=of, options=["-np", "4"], points=points)


def card(name: str, weights: float, kv: float, compute: float) -> PlannedDevice:
    """A GPU as a plan has it."""
    total = weights + kv + compute + 600
    return PlannedDevice(
        name=name, weights_mib=weights, kv_mib=kv, recurrent_mib=0, compute_mib=compute, overhead_mib=600,
        total_mib=total, free_mib=24576, left_mib=24576 - total, fits=True, verdict="fits",
    )  # fmt: skip


def own(weights: float, compute: float) -> PlannedDevice:
    """The host as a plan has it."""
    host = card("host", weights, 0, compute)
    return msgspec.structs.replace(host, mapped_mib=weights, prompt_cache_mib=0.0)


def plan(number: int, devices: list[PlannedDevice], of: int = 0) -> PlanRow:
    context = PlannedContext(
        n_ctx=32768, n_ctx_seq=8192, parallel=4, kv_unified=False, n_batch=2048, n_ubatch=512, flash_attn=True
    )
    return PlanRow(
        number=number, model=of, curve=0, engine="analytic", options=["-c", "32768", "-np", "4"], context=context,
        layers_on_gpus=25, devices=devices, verdict="fits",
        remedies=[PlannedRemedy(what="a smaller context", options=["-c", "1024"])], notes=["a note"],
    )  # fmt: skip


def server(
    host: str, instance: str, plan: int | None, verdict: str, gpus: Sequence[int] = (0,), problem: str | None = None
) -> ServerRow:
    return ServerRow(
        host=host, instance=instance, model="gpt-oss-20b", plan=plan, gpus=list(gpus), verdict=verdict, problem=problem
    )


def write_record(results: Path, rows: Sequence[Part], name: str) -> Path:
    """A record that holds some rows."""
    header = PlanHeader(
        target="gpu-hosts", git=Git(commit=None, dirty=None), engine="analytic", options=[], tag=None, client=CLIENT
    )
    with store.create(header, root=results, run_id=name) as record:
        for row in rows:
            record.append(row)
        record.finish(PlanSummary(fits=0, tight=0, does_not_fit=0, unknown=0, wall_s=0.0))
    return record.path
