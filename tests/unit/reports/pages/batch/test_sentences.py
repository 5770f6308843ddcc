"""Sentences that open a batch's page."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_tasks.batches.entries import Answer, Entry, Session, SetAside
from nexus_tasks.batches.entries import Server as Found
from nexus_tasks.reports.pages.batch import sentences
from tests.batch_runs import Run, Server, recorded, unequal
from tests.report_pages import opening_text

RIG = "rig/main"


def said(root: Path, entries: list[Entry], items: int) -> str:
    return opening_text(sentences.opening(recorded(root, entries, items)))


def test_a_batch_that_went_well_says_who_did_it_and_how_fast(tmp_path: Path) -> None:
    run = Run({RIG: Server()})
    run.work(range(50))
    told = said(tmp_path, run.entries, 50)
    assert told.startswith("All 50 rows were answered: ")
    assert " output tokens in " in told
    assert "rig/main gave all answers." in told
    assert told.endswith("No attempt failed, and no answer was cut off or missed its schema.")


def test_what_stood_in_the_way_is_told_the_worst_first(tmp_path: Path) -> None:
    told = said(tmp_path, unequal().entries, 400)
    assert told.startswith("13 of 400 rows failed: 387 answered, ")
    assert "answers came from gpu-01/main 8" in told
    assert (
        "Failed for: prompt longer than the context (7), row that can't be read (5), too many failed attempts (1); "
        "38 of 193 answers do not satisfy their schema; 38 answers were cut off by the limit of tokens."
    ) in told


def test_a_batch_without_an_answer_has_three_sentences(tmp_path: Path) -> None:
    told = said(tmp_path, [Session(0.0), SetAside(0, 0.0, "malformed", "no"), Session(1.0, "complete")], 1)
    assert told == (
        "The row failed. No request was answered, so there is nothing to tell of speed. "
        "Failed for: row that can't be read (1)."
    )


@pytest.mark.parametrize("entries", [[], [Session(0.0)]], ids=["no entry", "killed at once"])
def test_a_batch_that_never_began_has_three_sentences(tmp_path: Path, entries: list[Entry]) -> None:
    assert said(tmp_path, entries, 3).startswith("Interrupted: 3 of 3 rows left. No request was answered")


def test_endpoints_that_count_no_tokens_are_told_by_rows(tmp_path: Path) -> None:
    run = Run({RIG: Server(counts=False)}, reply=lambda item: {"answer": Answer(embedding=[0.5] * 8), "ttft_ms": None})
    run.work(range(30))
    told = said(tmp_path, run.entries, 30)
    assert "tokens" not in told
    assert "rows/s" in told
    assert "first token" not in told


def test_builds_that_changed_are_told(tmp_path: Path) -> None:
    run = Run({RIG: Server()})
    run.work(range(4))
    run.servers[RIG].build = "b2"
    run.work(range(4, 8))
    assert "the build changed meanwhile on rig/main" in said(tmp_path, run.entries, 8).lower()


def test_slots_that_idled_are_told(tmp_path: Path) -> None:
    run = Run({RIG: Server(slots=4)})
    run.work(range(100))
    for entry in run.entries:  # it has as many again, which nobody used
        if isinstance(entry, Found):
            entry.slots = 8
    told = said(tmp_path, run.entries, 100)
    assert "rig/main gave all answers (slots 50 % busy)" in told
    assert told.endswith("The slots of rig/main were 50 % busy while rows waited.")


def test_of_many_endpoints_few_are_named(tmp_path: Path) -> None:
    run = Run({f"gpu-{number}/main": Server() for number in range(6)})
    run.work(range(100))
    assert "and 3 more endpoints" in said(tmp_path, run.entries, 100)
