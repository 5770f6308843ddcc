"""Records of usage, as tests write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nexus_tasks.records import store
from nexus_tasks.records.benchmark_rows import Git, Machine
from nexus_tasks.records.store import UsageRecord
from nexus_tasks.records.usage_rows import UsageHeader, UsageRow, UsageSummary
from plugins.module_utils.gateway.usage_sums import BOUNDS_MS

BINS = len(BOUNDS_MS) + 1
CLIENT = Machine(hostname="desk", os="Debian", python="3.11.2", cpu=None, cpu_count=2, memory_mib=8192)


def bins(**counts: int) -> list[int]:
    """Counts by bins: ``bins(_0=3, _500=1, more=2)``."""
    made = [0] * BINS
    for name, count in counts.items():
        made[-1 if name == "more" else BOUNDS_MS.index(int(name[1:]))] = count
    return made


def row(hour: str = "2026-11-30T09", user: str = "alice", model: str = "tiny", **values: Any) -> UsageRow:
    """Usage of an hour: two answers of 10 tokens to prompts of 20, 5 of them from the cache."""
    return UsageRow(
        **{
            "gateway": "gw-1", "hour": hour, "user": user, "model": model, "requests": 2, "streams": 1, "answered": 2,
            "partial": 0, "uncounted": 0, "errors": {}, "prompt_tokens": 40, "cached_tokens": 10,
            "completion_tokens": 20, "bytes": 900, "queue_ms": bins(_0=2), "queue_ms_sum": 0, "ttft_ms": bins(_50=2),
            **values,
        }
    )  # fmt: skip


REFUSED: dict[str, Any] = {
    "requests": 3, "streams": 0, "answered": 0, "errors": {"401": 2, "503": 1}, "prompt_tokens": 0,
    "cached_tokens": 0, "completion_tokens": 0, "queue_ms": bins(), "ttft_ms": bins(),
}  # fmt: skip


def record(
    results: Path, rows: Sequence[UsageRow], *, damaged: int = 0, lost: Mapping[str, str] | None = None
) -> UsageRecord:
    """A record of some rows, written and read back."""
    header = UsageHeader(
        target="gateways", git=Git(commit=None, dirty=None), gateways=["gw-1"], since="2026-11-30T00:00:00+00:00",
        until="2026-12-01T00:00:00+00:00", bounds_ms=list(BOUNDS_MS), client=CLIENT,
    )  # fmt: skip
    with store.create(header, root=results) as written:
        for each in rows:
            written.append(each)
        written.finish(
            UsageSummary(
                requests=sum(each.requests for each in rows), answered=sum(each.answered for each in rows),
                prompt_tokens=sum(each.prompt_tokens for each in rows),
                cached_tokens=sum(each.cached_tokens for each in rows),
                completion_tokens=sum(each.completion_tokens for each in rows), damaged=damaged, lost=dict(lost or {}),
            )
        )  # fmt: skip
    return store.load(written.path, "usage")
