"""Planning of one model with what its profile says."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.model_store.memory import DOES_NOT_FIT, FITS, Gpu
from nexus_tasks.model_store.planning import Catalogue, Planning
from tests.memory_model_list import MODELS
from tests.memory_models import write


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """One model in two types, of which one recommends a context."""
    large, small = (write(tmp_path / f"{name}.gguf", MODELS[name]) for name in ("qwen3moe", "qwen2"))
    return {
        "m-q8-0": {"path": str(large), "quantization": "Q8_0", "recommended": {"ctx_size": 8192, "parallel": 1}},
        "m-q4-k-m": {"path": str(small), "quantization": "Q4_K_M"},
        "m-q2-k": {"path": str(tmp_path / "gone.gguf"), "quantization": "Q2_K"},
    }


def test_a_profile_brings_its_options_unless_they_are_given(catalogue: Catalogue) -> None:
    asked = Planning.of("m-q8-0", ["--temp", "1"], [Gpu("CUDA0", 24576)], catalogue=catalogue)
    made = asked.plan(asked.words)
    assert (made.context.n_ctx, made.context.n_seq_max, asked.without_effect) == (8192, 1, ["--temp"])
    asked = Planning.of("m-q8-0", ["-c", "4096"], [Gpu("CUDA0", 24576)], catalogue=catalogue)
    assert asked.recommended == ("--parallel", "1")
    assert asked.plan(asked.words).context.n_ctx == 4096


def test_a_quantisation_that_fits_is_named_and_one_that_can_not_be_read_is_not(catalogue: Catalogue) -> None:
    asked = Planning.of("m-q8-0", ["-fa", "on"], [Gpu("CUDA0", 3200)], catalogue=catalogue)
    plan = asked.plan(asked.words)
    assert plan.verdict == DOES_NOT_FIT
    named = [one.what for one in asked.remedies(plan) if "profile" in one.what]
    assert named == ["the profile m-q4-k-m, the same model in 1.7 GiB"]


def test_where_it_fits_nothing_is_looked_for(catalogue: Catalogue) -> None:
    asked = Planning.of("m-q8-0", [], [Gpu("CUDA0", 24576)], catalogue=catalogue)
    plan = asked.plan(asked.words)
    assert (plan.verdict, asked.remedies(plan)) == (FITS, [])


def test_a_draft_that_is_not_there_is_told(catalogue: Catalogue) -> None:
    with pytest.raises(UsageError, match="there is no model gone"):
        Planning.of("m-q8-0", ["-md", "gone"], [], catalogue=catalogue)
