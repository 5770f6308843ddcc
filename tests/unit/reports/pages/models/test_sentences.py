"""Sentences that open a page of models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nexus_tasks.reports.pages.models import sentences
from tests.report_pages import compared_runs, opening_text


def test_models_are_ranked_and_their_answers_to_the_same_prompts_counted(tmp_path: Path) -> None:
    compared = compared_runs(
        tmp_path,
        {"itl_ms": 8.0, "model": {"name": "slow"}, "sha256": "aa" * 32},
        {"itl_ms": 4.0, "model": {"name": "fast"}, "sha256": "bb" * 32},
        across=["model"],
    )
    for side, words in zip(compared.sides, ("yes", "no"), strict=True):
        for row in side[0].requests:
            row.answer = "the same" if row.key == "entry-7" else words
    said = opening_text(sentences.opening(compared))
    assert said.startswith("fast decodes fastest, with ")
    assert "times as fast as slow." in said
    assert "All answered 120 prompts that were the same for each; 1 of the answers is alike to the letter." in said


def test_models_of_one_name_are_told_apart_and_an_invalid_one_is_not_ranked(tmp_path: Path) -> None:
    compared = compared_runs(tmp_path, {"itl_ms": 8.0}, {"itl_ms": 4.0}, across=["model"])
    said = opening_text(sentences.opening(compared))
    assert re.match(
        r"(\S+) \(B\) decodes fastest, with \S+ tokens/s for each request: \S+ times as fast as \1 \(A\)\.", said
    )
    before, after = (float(one) for one in re.findall(r"\([AB]\) ([\d.]+) ms", said))
    assert before == pytest.approx(after, rel=0.2)
    [[after_]] = compared.sides[1:]
    assert after_.summary
    after_.summary.valid = False
    said = opening_text(sentences.opening(compared))
    assert re.match(r"Speeds can't be compared: those of \S+ \(B\) are partly the load generator's", said)
