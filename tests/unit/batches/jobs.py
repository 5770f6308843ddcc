"""Jobs of the tests: declared, and worked on as far as some entries of a journal say."""

from __future__ import annotations

from pathlib import Path

from nexus_tasks.batches import job, journal
from nexus_tasks.batches.entries import Answer, Answered, Entry, Usage
from nexus_tasks.batches.job import Folder, Input, Job
from nexus_tasks.batches.options import Options
from nexus_tasks.batches.summary import summary_of


def declared(root: Path, name: str = "night", items: int = 3) -> Folder:
    folder = job.create(root, name)
    given = Input("/data/prompts.jsonl", "jsonl", "ab" * 32, 1234, rows=items, items=items)
    folder.declare(Job(name, "2026-11-30T12:34:56+00:00", given, ["gpu-hosts"], {"max_tokens": 5}, Options()))
    return folder


def told(folder: Folder, *entries: Entry) -> str:
    with journal.opened(folder.journal, 3) as log:
        log.write(entries)
    return summary_of(folder).state


ANSWERED = Answered(0, "aa", "gpu1/main", "qwen", "b1", 4.0, 9.0, Answer(text="Hi"), Usage(3, 5))
