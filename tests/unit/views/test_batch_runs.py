"""Views of batches' records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from nexus_tasks.batches.entries import KINDS, Entry, Session, SetAside
from nexus_tasks.batches.index import Index
from nexus_tasks.batches.job import CANCELLED
from nexus_tasks.batches.options import COMPLETE, INTERRUPTED
from nexus_tasks.core.text import SPACE
from nexus_tasks.records import batch_rows
from nexus_tasks.views import batch_runs
from tests.batch_runs import Run, Server, recorded, unequal

RIG = "rig/main"


def worked(
    items: int, *, seconds: float | None = None, ended: str | None = "complete", failing: int = 0
) -> list[Entry]:
    """A session on one server, at which the first items fail."""
    run = Run({RIG: Server()}, lambda item, attempt: ("stalled", "silence", True) if item < failing else None)
    run.work(range(items), seconds=seconds, ended=ended)
    return run.entries


@pytest.mark.parametrize(
    ("entries", "items", "tone", "said", "badge"),
    [
        (worked(4), 4, "good", "All 4 rows were answered", "ok"),
        (worked(1), 1, "good", "The row was answered", "ok"),
        (worked(4, failing=1), 4, "bad", "1 of 4 rows failed", "1 failed"),
        (worked(4, failing=4), 4, "bad", "All 4 rows failed", "all failed"),
        (worked(20), 40, "muted", "Not finished: 20 of 40 rows left", f"50{SPACE}% done"),
        (worked(20, ended="interrupted"), 40, "muted", "Interrupted: 20 of 40 rows left", f"50{SPACE}% done"),
        (worked(20, ended=None), 40, "muted", "Interrupted: 20 of 40 rows left", f"50{SPACE}% done"),
        (worked(20, ended="cancelled"), 40, "muted", "Cancelled: 20 of 40 rows left", f"50{SPACE}% done"),
        (worked(20, ended="the disk is full."), 40, "bad", "Stopped (the disk is full): 20 of 40 rows left",
         f"50{SPACE}% done"),
        (worked(1999), 2000, "muted", "Not finished: 1 of 2,000 rows left", f"99{SPACE}% done"),
        ([Session(0.0), Session(0.0, "complete")], 0, "bad", "There was no row to answer", "empty"),
    ],
    ids=["all", "one", "a failure", "failures alone", "more to do", "interrupted", "killed", "cancelled", "stopped",
         "nearly", "empty"],
)  # fmt: skip
def test_the_verdict_says_how_the_job_stands(
    tmp_path: Path, entries: Sequence[Entry], items: int, tone: str, said: str, badge: str
) -> None:
    record = recorded(tmp_path, entries, items)
    assert batch_runs.verdict(record) == (tone, said)
    assert batch_runs.badge(record) == badge


def test_a_record_that_was_cut_off_says_so(tmp_path: Path) -> None:
    whole = recorded(tmp_path, worked(4), 4)
    cut = type(whole)(whole.path, whole.header)
    assert batch_runs.verdict(cut) == ("bad", "The record was cut off while it was written")
    assert batch_runs.badge(cut) == "cut short"
    assert batch_runs.told_at(cut) == cut.started_at


def test_several_samples_of_a_row_are_requests(tmp_path: Path) -> None:
    record = recorded(tmp_path, worked(4), 4, index=Index(2, 4, {}, "ab" * 32))
    assert batch_runs.verdict(record)[1] == "All 4 requests were answered"


def test_every_kind_of_failure_has_words() -> None:
    assert set(batch_runs.CAUSES) == set(KINDS)
    assert batch_runs.cause("unheard_of") == "unheard_of"


def test_outcomes_are_called_alike_in_journals_and_records() -> None:
    assert (batch_rows.COMPLETE, batch_rows.INTERRUPTED, batch_rows.CANCELLED) == (COMPLETE, INTERRUPTED, CANCELLED)


def test_the_last_record_of_a_job_is_the_newest_and_other_jobs_are_others(tmp_path: Path) -> None:
    first, second = (recorded(tmp_path, worked(count), 4) for count in (2, 4))
    other = recorded(tmp_path, worked(4), 4, created_at="2026-11-22T13:00:00+00:00")
    found = batch_runs.newest([first, second, other])
    assert [one.path for one in found] == [second.path, other.path]
    assert found[0].requests == []


def test_models_are_named_by_how_much_they_answered(tmp_path: Path) -> None:
    record = recorded(tmp_path, unequal().entries, 400)
    rows = [msgspec.structs.replace(row, model=f"/models/{place}.gguf", answered=place)
            for place, row in enumerate(record.servers)]  # fmt: skip
    assert batch_runs.models(type(record)(record.path, record.header, servers=rows)) == ["2.gguf", "1.gguf"]
    idle = [msgspec.structs.replace(row, answered=0) for row in rows]
    assert len(batch_runs.models(type(record)(record.path, record.header, servers=idle))) == 3


def test_rows_that_were_never_sent_name_no_model(tmp_path: Path) -> None:
    record = recorded(tmp_path, [Session(0.0), SetAside(0, 0.0, "malformed", "no")], 1)
    assert batch_runs.models(record) == []
