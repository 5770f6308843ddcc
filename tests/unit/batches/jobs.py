"""Jobs of the tests: declared, and worked on as far as some entries of a journal say."""

from __future__ import annotations

from pathlib import Path

import msgspec

from nexus_tasks.batches import index, job, journal, sources
from nexus_tasks.batches.asking import Asking
from nexus_tasks.batches.entries import Answer, Answered, Entry, SetAside, Usage
from nexus_tasks.batches.index import Index
from nexus_tasks.batches.inputs import Input
from nexus_tasks.batches.items import KEY_BYTES
from nexus_tasks.batches.job import Folder, Job
from nexus_tasks.batches.options import Options
from nexus_tasks.batches.sources import Source
from nexus_tasks.batches.summary import summary_of


def declared(root: Path, name: str = "night", items: int = 3) -> Folder:
    """A job about a file that is not there."""
    folder = job.create(root, name)
    given = Input(Source("/data/prompts.jsonl", "jsonl"), Asking(parameters={"max_tokens": 5}))
    found = Index(items, items, {}, "ab" * 32)
    folder.declare(Job(name, "2026-11-30T12:34:56+00:00", given, found, ["gpu-hosts"], Options()))
    return folder


def of_file(root: Path, source: Path, asking: Asking = Asking(), *entries: Entry, name: str = "night") -> Folder:  # noqa: B008 - it is frozen
    """A job about a file, worked on as far as some entries say; answers get the keys of their requests."""
    folder = job.create(root, name)
    given = Input(sources.find(source), asking)
    found = index.write(given, folder.rows_index)
    folder.declare(Job(name, "2026-11-30T12:34:56+00:00", given, found, ["gpu-hosts"], Options()))
    keys = folder.rows_index.read_bytes()
    with journal.opened(folder.journal, found.items) as log:
        log.write([_with_key(entry, keys) for entry in entries])
    return folder


def _with_key(entry: Entry, keys: bytes) -> Entry:
    if not isinstance(entry, Answered):
        return entry
    return msgspec.structs.replace(entry, key=keys[entry.item * KEY_BYTES :][:KEY_BYTES].hex())


def told(folder: Folder, *entries: Entry) -> str:
    with journal.opened(folder.journal, 3) as log:
        log.write(entries)
    return summary_of(folder).state


ANSWERED = Answered(0, "aa", "gpu1/main", "qwen", "b1", 4.0, 9.0, Answer(text="Hi"), Usage(3, 5))


def answered(item: int, text: str, answer: Answer | None = None) -> Answered:
    """An answer of one server, with its text or as it is given."""
    whole = answer or Answer(text=text, finish_reason="stop")
    return Answered(item, "aa", "gpu1/main", "qwen", "b1", 4.0, 9.0, whole, Usage(3, 5))


def set_aside(item: int, kind: str) -> SetAside:
    """A failure of a kind."""
    return SetAside(item, 4.0, kind, f"why item {item}")
