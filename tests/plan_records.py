"""Records of memory plans, as tests write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nexus_tasks.records import store
from nexus_tasks.records.benchmark_rows import Git, Machine, Part
from nexus_tasks.records.plan_rows import MachineRow, PlanHeader, PlanSummary

CLIENT = Machine(hostname="desk", os="Debian", python="3.11.2", cpu=None, cpu_count=2, memory_mib=8192)


def machine(host: str, gpus_mib: Sequence[float], source: str, asked_at: str | None) -> MachineRow:
    return MachineRow(host=host, gpus_mib=list(gpus_mib), memory_mib=None, source=source, asked_at=asked_at)


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
