"""Instances whose models are measured by llama.cpp's own tools, and what the tools print."""

from __future__ import annotations

import json
from typing import Any

from nexus_tasks.fleet.inventory import Instance
from nexus_tasks.measurement.llama_bench import tool_plan
from nexus_tasks.measurement.llama_bench.tool_plan import BATCHED, BENCH, ToolPlan


def instance(*flags: str, backend: str = "cpu", model: dict[str, Any] | None = None) -> Instance:
    argv = ["/r/bin/llama-server", "--model", "/m/tiny.gguf", "--alias", "tiny", "--port", "1", "--fit", "off", *flags]
    release = {"name": "b1-cpu", "path": "/r", "ref": "b1", "commit": "0123456789abcdef", "backend": backend}
    return Instance("rig", "main", "http://127.0.0.1:1", "sesame", model or {"name": "tiny"}, release, argv, "/log")


def planned(*flags: str, engine: str = BENCH, levels: tuple[int, ...] = (1,), **options: Any) -> ToolPlan:
    return tool_plan.plan_for(instance(*flags, **options), engine, 300, 20, 3, levels)


def bench_lines(generated: int = 2) -> list[dict[str, Any]]:
    lines = [
        {"command": 0, "t_s": 1.0, "text": "llama-bench: benchmark 1/1: warmup prompt run"},
        {"command": 0, "t_s": 2.0, "text": "llama-bench: benchmark 1/1: prompt run 1/2"},
        {"command": 0, "t_s": 2.5, "text": "llama-bench: benchmark 1/1: prompt run 2/2"},
        {"command": 0, "t_s": 3.0, "text": json.dumps({"samples_ns": [400_000_000, 500_000_000]})},
        {"command": 1, "t_s": 5.0, "text": "llama-bench: benchmark 1/1: generation run 1/2"},
    ]
    samples = [1_000_000_000, 1_100_000_000][:generated]
    return lines + ([{"command": 1, "t_s": 8.0, "text": json.dumps({"samples_ns": samples})}] if samples else [])


BATCHED_LINES = [
    {"command": 0, "t_s": 2.0, "text": json.dumps({"pl": level, "t_pp": 0.3, "t_tg": seconds, "t": 0.3 + seconds})}
    for level, seconds in ((1, 0.9), (1, 0.4), (1, 0.5), (1, 0.6), (4, 2.0), (4, 0.8), (4, 1.0), (4, 1.2), (1, 9.0))
]


BATCHED_PLAN = planned(engine=BATCHED, levels=(1, 4))
