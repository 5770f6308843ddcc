"""Answers on a batch's page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.batches.entries import Answer
from nexus_tasks.core.text import MISSING, SPACE
from nexus_tasks.records.store import BatchRecord
from nexus_tasks.reports.pages.batch import answers
from tests.batch_runs import Run, Server, recorded, unequal

RIG = "rig/main"


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> BatchRecord:
    return recorded(tmp_path_factory.mktemp("batch"), unequal().entries, 400)


def cells(html: str) -> list[str]:
    """The texts of a table's cells."""
    return [re.sub(r"<[^>]*>", " ", cell).split("\n")[0].strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", html)]


def test_the_rate_of_valid_answers_has_its_interval_and_its_reasons(record: BatchRecord) -> None:
    html = answers.structured(record).html
    assert f"80.3{SPACE}%<small>74.1\N{EN DASH}85.3{SPACE}%</small>" in html
    assert "$.population: it is a string, not an integer" in html
    assert "line 10 · q-9" in html


def test_schemas_have_a_row_each(tmp_path: Path) -> None:
    def reply(item: int) -> dict[str, Any]:
        name = "odd" if item % 2 else "even"
        return {"schema": name, "valid": item < 4, "invalid_reason": None if item < 4 else "$.a is missing"}

    run = Run({RIG: Server()}, reply=reply)
    run.work(range(10))
    html = answers.structured(recorded(tmp_path, run.entries, 10)).html
    assert [row for row in cells(html) if row in ("even", "odd")] == ["odd", "even", "odd", "even"]


def test_ends_of_answers_are_counted(record: BatchRecord) -> None:
    assert cells(answers.ends(record).html)[:3] == ["stop", "349", f"90.2{SPACE}%"]
    assert "cut off" in answers.ends(record).html


def test_answers_are_cut_and_say_so_and_their_markup_is_text(tmp_path: Path) -> None:
    run = Run({RIG: Server()}, reply=lambda item: {"answer": Answer(text="<script>" + "x" * 5000)})
    run.work(range(20))
    html = answers.samples(recorded(tmp_path, run.entries, 20), 5).html
    assert html.count("<article>") == 5
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "… (3,008 more letters)" in html


def test_an_answer_that_is_empty_is_shown_as_such(tmp_path: Path) -> None:
    run = Run({RIG: Server()}, reply=lambda item: {"answer": Answer(text="")})
    run.work(range(1))
    assert "(empty)" in answers.samples(recorded(tmp_path, run.entries, 1), 5).html


def test_percentiles_need_twenty_points(tmp_path: Path) -> None:
    for count, dashes in ((19, 3), (20, 0)):
        run = Run({RIG: Server()})
        run.work(range(count))
        first = cells(answers.lengths(recorded(tmp_path, run.entries, count)).html)[:8]
        assert first[:2] == ["Whole request, ms", str(count)]
        assert first.count(MISSING) == dashes
