"""A record as a whole: its names, its levels, its SLOs."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_tasks.core.text import SPACE
from nexus_tasks.views import runs
from tests.report_pages import SIZES, stored
from tests.report_records import simulate


def test_rounds_of_one_level_are_one_load(tmp_path: Path) -> None:
    plans = [{"concurrency": 2, "requests": 10}] * 3
    assert runs.load_name(stored(tmp_path, **simulate(plans, output_tokens=16), **SIZES)) == "concurrency 2"


def test_a_model_that_is_known_by_its_path_alone_is_called_by_its_file(tmp_path: Path) -> None:
    record = stored(tmp_path, model={"name": "/opt/models/tiny.gguf"})
    assert runs.model_name(record) == "tiny.gguf"
    assert runs.model_name(stored(tmp_path, model={"name": "maker/tiny"})) == "maker/tiny"


def test_a_level_of_several_rounds_is_one(tmp_path: Path) -> None:
    plans = [{"concurrency": 2, "requests": 10}] * 3
    record = stored(
        tmp_path, **simulate(plans, output_tokens=16), **SIZES, watches={1: {"valid": False, "in_flight": 1.1}}
    )
    (stage,) = runs.stages(record)
    assert stage.requests == 30
    figures = stage.metrics["ttft_ms"]
    assert figures is not None
    assert figures.n == 30
    assert stage.watch is not None
    assert (stage.watch.in_flight, stage.watch.valid) == (1.1, False)


@pytest.mark.parametrize(
    ("name", "limit", "text"), [("ttft_ms", 500.0, "TTFT ≤ 500 ms"), ("itl_p95_ms", 50.0, "p95 of ITL ≤ 50 ms")]
)
def test_an_slo_is_told_in_words(name: str, limit: float, text: str) -> None:
    assert runs.objective_text(name, limit).replace(SPACE, " ") == text
