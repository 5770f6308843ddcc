"""The plan as JSON and as text."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from nexus_tasks.hostlib import gguf
from nexus_tasks.hostlib.model_shape import shape_of
from nexus_tasks.model_store import plan_text
from nexus_tasks.model_store.memory import Gpu, MemoryPlan, plan_memory
from nexus_tasks.model_store.remedies import Remedy
from nexus_tasks.model_store.server_options import parse_options
from tests.conftest import ROOT
from tests.memory_model_list import MODELS
from tests.memory_models import write


@pytest.fixture
def plan(tmp_path: Path) -> MemoryPlan:
    """A plan of gpt-oss on one GPU."""
    shape = shape_of(gguf.read_model(str(write(tmp_path / "m.gguf", MODELS["gpt-oss-20b-Q4_K_M"]))))
    return plan_memory(shape, parse_options(["-c", "128000", "-np", "1"])[0], [Gpu("CUDA0", 24_576.0)])


def test_json_has_the_figures_of_each_device(plan: MemoryPlan) -> None:
    made = json.loads(json.dumps(plan_text.as_json(plan, [Remedy("less", ("-c", "5"))], ["--temp"])))
    card, host = made["devices"]
    assert (card["name"], card["weights_mib"], card["kv_mib"], card["fits"]) == ("CUDA0", 10694.1455, 3018, True)
    assert (host["name"], host["mapped_mib"], host["free_mib"], host["fits"]) == ("host", 379.7095, None, None)
    assert made["remedies"] == [{"what": "less", "options": ["-c", "5"]}]
    assert (made["verdict"], made["options_without_effect"]) == ("fits", ["--temp"])


def test_a_models_own_name_is_shown_in_one_line_without_what_controls_a_terminal(plan: MemoryPlan) -> None:
    named = replace(plan, shape=replace(plan.shape, name="X\x1b]0;title\x07\nverdict: fits\x1b[31m"))
    first, second, *_ = plan_text.lines(named, [])
    assert first.startswith("X verdict: fits (gpt-oss): ")
    assert second == "verdict: fits"


def test_every_field_of_the_json_is_documented(plan: MemoryPlan) -> None:
    documented = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
    made = plan_text.as_json(plan, [Remedy("less", ())], [])
    fields = {*made, *made["model"], *made["context"], *(key for device in made["devices"] for key in device)}
    assert [field for field in sorted(fields) if f"`{field}`" not in documented] == []


def test_the_table_has_whole_words_at_eighty_columns(plan: MemoryPlan) -> None:
    out = Console(width=80, file=io.StringIO())
    out.print(plan_text.table(plan))
    assert isinstance(out.file, io.StringIO)
    shown = out.file.getvalue()
    assert "…" not in shown
    for word in ("weights", "compute", "CUDA0", "10,694", "host", "fits"):
        assert word in shown


def test_a_table_of_large_figures_fits_eighty_columns_too(plan: MemoryPlan) -> None:
    large = replace(plan.devices[0], weights_mib=23456.0, kv_mib=19876.0, compute_mib=4567.0, prompt_cache_mib=45678.0)
    out = Console(width=80, file=io.StringIO())
    out.print(plan_text.table(replace(plan, devices=(large, replace(large, name="host")))))
    assert isinstance(out.file, io.StringIO)
    assert "…" not in out.file.getvalue()
    assert "does not fit" in out.file.getvalue()


def test_lines_tell_the_model_the_verdict_and_what_would_help(plan: MemoryPlan) -> None:
    first, *rest = plan_text.lines(plan, [Remedy("a smaller context", ("-c", "1024"))])
    assert "(gpt-oss): 1 slot of 128,000 tokens, together 128,000 tokens, 25 of 25 layers on GPUs" in first
    assert rest[0] == "verdict: fits"
    assert "would fit: a smaller context (-c 1024)" in rest
