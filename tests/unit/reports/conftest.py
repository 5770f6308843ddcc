"""Runs that several tests of pages show."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.records import store
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports.pages.compare import sides
from nexus_tasks.reports.pages.compare.sides import Compared
from tests.report_pages import SIZES
from tests.report_records import NOON, simulate, write

HOUR = timedelta(hours=1)


@pytest.fixture
def record(tmp_path: Path) -> BenchmarkRecord:
    return store.load(write(tmp_path))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> BenchmarkRecord:
    plans = [{"concurrency": users, "requests": 4 * users} for users in (1, 2, 4, 8, 16)]
    told: dict[str, Any] = {
        "mode": "sweep",
        "axis": "concurrency",
        "slo": {"ttft_ms": 300, "itl_p95_ms": 20},
        "trailer": {"knee": 2},
    }
    watches = {4: {"valid": False, "cpu_per_process": 0.9, "reasons": ["0.90 of a core"]}}
    made = simulate(plans, slots=4, output_tokens=16)
    return store.load(write(tmp_path_factory.mktemp("sweep"), **made, **SIZES, **told, watches=watches))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """Two runs that differ in one option, with answers to the same prompts."""
    root = tmp_path_factory.mktemp("pair")
    paths = []
    for place, itl_ms in enumerate((8.0, 10.0)):
        made = simulate([{"concurrency": 4, "requests": 60, "warmup": 4}], itl_ms=itl_ms, output_tokens=16, seed=place)
        for row in made["requests"]:
            row["answer"] = f"answer <{place}> & more"
        argv = ["/bin/llama-server", "--parallel", "4", "--ubatch-size", str(512 * (place + 1))]
        made["server"] = {"argv": argv, "total_slots": 4}
        paths.append([str(write(root, NOON + place * HOUR, **made, **SIZES))])
    return sides.read(paths)
