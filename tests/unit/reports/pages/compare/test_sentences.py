"""Sentences that open a comparison's page."""

from __future__ import annotations

import re
from pathlib import Path

from nexus_tasks.reports.pages.compare import sentences
from tests.report_pages import compared_runs, opening_text


def test_a_comparison_opens_with_what_became_worse_and_by_how_much(tmp_path: Path) -> None:
    compared = compared_runs(tmp_path, {"itl_ms": 8.0}, {"itl_ms": 10.0})
    said = opening_text(sentences.opening(compared))
    assert said.startswith("B is worse in ")
    assert re.search(r"decode \(-(19|20)\.\d %, between -2\d\.\d and -1\d\.\d\)", said), said
    assert "some drift between them is assumed" in said
    assert compared.sides[0][0].run_id not in said


def test_runs_that_asked_different_things_are_not_compared(tmp_path: Path) -> None:
    compared = compared_runs(tmp_path, {}, {"temperature": 1})
    said = opening_text(sentences.opening(compared))
    assert said.startswith("B can't be compared with A: A and B asked different things: temperature 0 against 1")
