"""Print what rendering a report costs beside bare nbclient that executes the same cells, and six at a time.

    python -m tests.report_cost

Each is a command of its own, from start to end: seconds that pass and seconds of the processors, medians of trials that
are taken in turn. Nothing else should compute meanwhile.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from nexus_tasks.reports import site
from tests.conftest import ROOT
from tests.report_records import NOON, fixed, simulate, write

TRIALS = 3
TOGETHER = 6
BARE = """
import sys
import nbformat
from nbclient import NotebookClient
source, record, results, cwd = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
values = nbformat.v4.new_code_cell(f"record_path = {record!r}\\nresults_dir = {results!r}")
notebook.cells.insert(1, values)
NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": cwd}}).execute()
"""


def main() -> None:
    """Measure and print."""
    out = Console(highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        records = [_record(root / "results", number) for number in range(TOGETHER)]
        bare = [
            sys.executable, "-c", BARE, str(site.NOTEBOOKS / "benchmark.ipynb"), str(records[0]),
            str(root / "results"), str(ROOT),
        ]  # fmt: skip
        told = ["--results", str(root / "results"), "--reports", str(root / "reports"), "--force"]
        ours = [sys.executable, "-m", "nexus_tasks.report", *told]
        took: dict[str, list[tuple[float, float]]] = {"bare nbclient": [], "a report": [], "six reports": []}
        for _ in range(TRIALS):
            took["bare nbclient"].append(_measure(bare))
            took["a report"].append(_measure([*ours, "--run", records[0].stem]))
        took["six reports"].append(_measure([*ours, "benchmark"]))
    figures = {name: [statistics.median(part) for part in zip(*times, strict=True)] for name, times in took.items()}
    figures |= {
        "ratio of the report": [a / b for a, b in zip(figures["a report"], figures["bare nbclient"], strict=True)]
    }
    for name, (wall_s, cpu_s) in figures.items():
        out.print(f"{name:20} {wall_s:6.2f} s passed, {cpu_s:6.2f} s of processors")
    wall_s, cpu_s = figures["six reports"]
    out.print(f"six use {cpu_s / wall_s:.2f} of {os.cpu_count()} cores")


def _record(root: Path, number: int) -> Path:
    """A run of its own target, so that it has neither history nor neighbours."""
    made = simulate([{"concurrency": 8, "requests": 200, "warmup": 8}], seed=number)
    when = NOON + number * timedelta(hours=1)
    sizes: dict[str, Any] = {"prompt_tokens": fixed(512), "output_tokens": fixed(64)}
    return write(root, when, **made, **sizes, target=f"gpu{number}/main")


def _measure(command: Sequence[str]) -> tuple[float, float]:
    """How many seconds a command took, and how many of the processors it and its children used."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, spent


if __name__ == "__main__":
    main()
