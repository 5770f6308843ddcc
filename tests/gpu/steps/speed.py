"""Speed of the deployed server beside that of llama-bench."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from nexus_tasks.records import store
from nexus_tasks.records.store import BenchmarkRecord
from tests.conftest import ROOT
from tests.gpu.rows import Report
from tests.gpu.steps.place import Place, instance_log

UNKNOWN = "not known"


def speed(place: Place, report: Report) -> None:
    """The deployed server against llama-bench, which has no server around the model."""
    instance_log(place)
    prompt, output, repetitions = place.load
    medians = {}
    for engine in ("http", "llama-bench"):
        argv = [
            sys.executable, "-m", "nexus_tasks.benchmark", "localhost/main", "--engine", engine, "--prompt-tokens",
            str(prompt), "--output-tokens", str(output), "--requests", str(repetitions), "--json", "--results",
            str(place.work / "records"),
        ]  # fmt: skip
        done = subprocess.run(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
        if not done.stdout.startswith("["):
            report.add(f"{engine}: measured", False, done.stdout[-300:] or "it said nothing: see check.log")
            continue
        [answer] = json.loads(done.stdout)
        record = store.load(Path(answer["record"]))
        medians[engine] = {name: median_of(record, name) for name in ("decode_tps", "prefill_tps")}
        shown = {name: value and round(value, 1) for name, value in medians[engine].items()}
        report.add(f"{engine}: {prompt} + {output} tokens", answer["ok"], shown, ", ".join(answer["reasons"]))
        if engine == "http" and place.gpus:
            report.add("GPUs were sampled meanwhile", any(row.gpus for row in record.samples), energy_of(answer))
    if len(medians) == 2:
        for name, served_ in medians["http"].items():
            raw = medians["llama-bench"][name]
            # Of answers whose tokens came together, as on a machine that is too busy to read them, there is no speed.
            report.add(f"served / raw, {name}", True, f"{served_ / raw:.3f}" if served_ and raw else UNKNOWN)


def median_of(record: BenchmarkRecord, metric: str) -> float | None:
    """None where there was nothing to be told of: no row of the report may be lost for it."""
    figures = record.summary.metrics.get(metric) if record.summary else None
    return figures.median if figures else None


def energy_of(answer: dict[str, Any]) -> str:
    joules = (answer.get("energy") or {}).get("joules")
    return f"{joules:.0f} J" if joules is not None else "no energy"
