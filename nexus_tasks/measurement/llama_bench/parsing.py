"""Lines of llama-bench and llama-batched-bench, as module llama_bench hands them over, parsed into repetitions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nexus_tasks.measurement.llama_bench.tool_plan import ToolPlan


@dataclass(frozen=True)
class Sample:
    """One repetition: seconds of prefill and of decoding, None where it was not come to."""

    concurrency: int
    start_s: float
    prefill_s: float | None
    decode_s: float | None
    phase: str = "run"


def bench_samples(lines: Iterable[Mapping[str, Any]]) -> list[Sample]:
    """The repetitions in the lines of llama-bench: the first prefill with the first generation, and so on."""
    seconds: dict[int, list[float]] = {0: [], 1: []}
    begun: dict[int, list[float]] = {0: [], 1: []}
    for line in lines:
        command, text = line["command"], line["text"]
        if text.startswith("{"):
            seconds[command] = [sample / 1e9 for sample in json.loads(text)["samples_ns"]]
        elif re.search(r": (prompt|generation) run ", text):
            begun[command].append(line["t_s"])
    return [
        Sample(1, begun[0][number], prefill, seconds[1][number] if seconds[1] else None)
        for number, prefill in enumerate(seconds[0])
    ]


def batched_samples(lines: Sequence[Mapping[str, Any]], asked: ToolPlan) -> list[Sample]:
    """The repetitions in the lines of llama-batched-bench; the first of each concurrency is warm-up."""
    samples: list[Sample] = []
    for line in lines[: (asked.repetitions + 1) * len(asked.concurrencies)]:
        row = json.loads(line["text"])
        first = not samples or samples[-1].concurrency != row["pl"]
        samples.append(
            Sample(row["pl"], line["t_s"] - row["t"], row["t_pp"], row["t_tg"], "warmup" if first else "run")
        )
    return samples
