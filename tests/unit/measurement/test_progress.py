"""Tables of a finished run in a terminal."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from nexus_tasks.measurement import progress
from nexus_tasks.records.store import BenchmarkRecord
from tests.report_pages import stored, sweep_run

URL = "https://gateway.internal.example-company.com:8443/openai/deployments/llama-3.1-70b/v1"


def printed(record: BenchmarkRecord) -> str:
    console = Console(file=io.StringIO(), width=80)
    progress.print_summary(record, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def faster(part: Any, times: float) -> Any:
    """A row whose figures are so many times as large."""
    plain = msgspec.to_builtins(part)
    for figures in [plain["throughput"], *plain["metrics"].values()]:
        for key, value in (figures or {}).items():
            if isinstance(value, float):
                figures[key] = value * times
    return msgspec.convert(plain, type(part))


@pytest.mark.parametrize("axis", ["concurrency", "rate_per_s"])
@pytest.mark.parametrize("times", [1, 1000])
def test_a_sweeps_table_is_whole_in_80_columns(tmp_path: Path, axis: str, times: float) -> None:
    record = sweep_run(tmp_path, target=URL, axis=axis, trailer={"knee": 2}, watches={2: {"valid": False}})
    for row in record.stages:
        row.rate_per_s = 1000.0 * (row.stage + 1)
    record.stages[:] = [faster(row, times) for row in record.stages]
    text = printed(record)
    assert "…" not in text
    for heading in ("requests", "failed", "tokens/s", "requests/s", "TTFT", "ITL", "ms", "knee", "invalid"):
        assert heading in text


def test_the_table_of_metrics_is_whole_in_80_columns(tmp_path: Path) -> None:
    record = stored(tmp_path, target=URL)
    assert record.summary
    slow = faster(record.summary, 1e5)
    assert "…" not in printed(BenchmarkRecord(record.path, record.header, stages=record.stages, summary=slow))
