"""Rows of an export: the input's order, metadata, and what came of each item."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_tasks.batches import journal
from nexus_tasks.batches.asking import Asking
from nexus_tasks.batches.entries import Entry
from nexus_tasks.batches.exports import rows
from nexus_tasks.batches.exports.rows import Error, ExportRow
from nexus_tasks.batches.job import Folder
from nexus_tasks.core.errors import UsageError
from tests.unit.batches.jobs import answered, of_file, set_aside

PROMPTS = '{"id": "a", "prompt": "One", "n": 1}\n\n{"prompt": "Two", "n": 2}\n{"n": 3}\n{"id": "d", "prompt": "Four"}\n'


def exported(folder: Folder) -> list[ExportRow]:
    job = folder.load()
    with journal.Results(folder.journal) as results:
        return list(rows.rows(job.input, journal.read(folder.journal, job.index.items), results))


def made(tmp_path: Path, *entries: Entry, samples: int = 1) -> Folder:
    source = tmp_path / "prompts.jsonl"
    source.write_text(PROMPTS)
    return of_file(tmp_path / "jobs", source, Asking(samples=samples), *entries)


def test_rows_come_in_the_order_of_the_input_whenever_they_were_answered(tmp_path: Path) -> None:
    found = exported(made(tmp_path, answered(3, "four"), set_aside(2, "no_prompt"), answered(0, "one")))
    assert [(row.id, row.line, row.metadata) for row in found] == [
        ("a", 1, {"n": 1}), ("3", 3, {"n": 2}), ("4", 4, {"n": 3}), ("d", 5, {})
    ]  # fmt: skip
    assert [row.answer.text if row.answer else row.error for row in found] == [
        "one", Error("pending", "has no answer yet"), Error("no_prompt", "why item 2"), "four"
    ]  # fmt: skip


def test_each_sample_is_a_row(tmp_path: Path) -> None:
    found = exported(made(tmp_path, answered(1, "one, again"), samples=2))
    assert [(row.id, row.sample) for row in found[:3]] == [("a", 0), ("a", 1), ("3", 0)]
    assert found[1].answer
    assert found[1].answer.text == "one, again"


@pytest.mark.parametrize("change", [str.upper, None], ids=["edited", "gone"])
def test_an_input_that_is_no_longer_that_of_the_job_is_refused(tmp_path: Path, change: object) -> None:
    folder = made(tmp_path)
    source = tmp_path / "prompts.jsonl"
    rows.check_input(folder, folder.load())
    if change:
        source.write_text(PROMPTS.upper())
    else:
        source.unlink()
    with pytest.raises(UsageError, match=r"the input of the job night, (changed since|can't be read)") as raised:
        rows.check_input(folder, folder.load())
    assert "bring the file back" in raised.value.hint
