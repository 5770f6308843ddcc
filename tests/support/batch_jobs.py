"""Batches as a user runs them, in processes of their own, for tests and for `python -m tests.batch_rates`.

write_rows(folder / "rows.jsonl", 60)
process = begin(folder / "rows.jsonl", base_url, jobs=folder, options=["--max-tokens", "8"])
entries_of(folder)
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from nexus_tasks.batches import journal
from nexus_tasks.batches.entries import Entry
from nexus_tasks.batches.job import Folder

NAME = "job"
MARK = re.compile(rb"row-(\d+)\.")


def write_rows(path: Path, count: int, *, first: int = 0) -> None:
    """A JSONL file of so many rows; the prompt of each names it, as :data:`MARK` finds it in a request."""
    with path.open("w") as stream:
        stream.writelines(
            json.dumps({"id": f"row-{number}", "prompt": f"row-{number}. Tell me more."}) + "\n"
            for number in range(first, first + count)
        )


def begin(rows: Path, *targets: str, jobs: Path, options: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Begin the job, or go on with it where it was begun."""
    if Folder(jobs / NAME).declaration.exists():
        words: list[str | Path] = ["resume", NAME, "--jobs", jobs]
    else:
        words = [rows, *targets, "--name", NAME, "--jobs", jobs, *options]
    with (jobs / "output.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "nexus_tasks.batch", *words],
            env={**os.environ, "NEXUS_RESULTS": str(jobs / "results")},
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip


def said(jobs: Path) -> str:
    """All that processes of the job printed so far."""
    return (jobs / "output.log").read_text()


def exported(jobs: Path) -> list[dict[str, object]]:
    """The rows of the job's export."""
    done = subprocess.run(
        [sys.executable, "-m", "nexus_tasks.batch", "export", NAME, "--jobs", jobs, "--format", "jsonl"],
        check=True, capture_output=True,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def entries_of(jobs: Path) -> list[Entry]:
    """The entries of the job's journal."""
    return [entry for _, entry in journal.entries(Folder(jobs / NAME).journal)]
