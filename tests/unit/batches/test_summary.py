"""Summaries of jobs: their state in a word, and what was counted."""

from __future__ import annotations

from pathlib import Path

from nexus_tasks.batches.entries import Begun, Reopened, Session, SetAside
from nexus_tasks.batches.summary import summary_of
from tests.unit.batches.jobs import ANSWERED, declared, told


def test_the_state_of_a_job_is_that_of_its_last_session(tmp_path: Path) -> None:
    folder = declared(tmp_path)
    assert summary_of(folder).state == "new"
    assert told(folder, Session(1.0), Begun([0], "gpu1/main", 1.0)) == "killed"
    assert told(folder, Session(3.0), ANSWERED, Session(5.0, "interrupted")) == "interrupted"
    assert told(folder, Session(6.0), Session(7.0, "no space left")) == "failed"
    failed = [SetAside(item, 9.0, "too_long", "4,200 of 4,096") for item in (1, 2)]
    assert told(folder, Session(8.0), *failed, Session(9.0, "complete")) == "complete"
    assert told(folder, Reopened([1], 10.0, "retry-failed")) == "interrupted"


def test_a_summary_counts_what_the_journal_has(tmp_path: Path) -> None:
    folder = declared(tmp_path)
    told(folder, Session(1.0), Begun([0, 1, 2], "gpu1/main", 1.0), ANSWERED, SetAside(1, 9.0, "too_long", "4,200"))
    found = summary_of(folder)
    assert (found.items, found.answered, found.set_aside, found.remaining) == (3, 1, {"too_long": 1}, 1)
    assert found.tokens == {"prompt": 3, "output": 5, "cached": 0}
    assert found.answers_by == [{"endpoint": "gpu1/main", "model": "qwen", "build": "b1", "answered": 1}]
    assert found.rows_per_s == 2 / 8
