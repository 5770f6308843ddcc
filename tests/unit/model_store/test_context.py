"""Sizes of contexts; their memory is held against llama.cpp's in test_memory.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_tasks.hostlib import gguf
from nexus_tasks.hostlib.model_shape import ModelShape, shape_of
from nexus_tasks.model_store.context import Context, context_of
from nexus_tasks.model_store.server_options import parse_options
from tests.memory_model_list import MODELS
from tests.memory_models import write


@pytest.fixture
def shape(tmp_path: Path) -> ModelShape:
    """A small model, trained on 131072 tokens."""
    return shape_of(gguf.read_model(str(write(tmp_path / "m.gguf", MODELS["qwen3"]))))


def context(shape: ModelShape, line: str) -> Context:
    return context_of(shape, parse_options(line.split())[0])


def test_slots_share_a_unified_cache_and_have_their_part_of_another(shape: ModelShape) -> None:
    shared, apart = context(shape, "-c 10000 -np 4 -kvu"), context(shape, "-c 10000 -np 4")
    assert (shared.n_ctx, shared.n_ctx_seq, shared.streams) == (10240, 10240, 1)
    assert (apart.n_ctx, apart.n_ctx_seq, apart.streams) == (10240, 2560, 4)


def test_the_context_is_the_models_own_where_none_is_given(shape: ModelShape) -> None:
    assert context(shape, "").n_ctx == 131072


def test_a_batch_is_no_longer_than_the_context_and_holds_as_much_of_each_slot(shape: ModelShape) -> None:
    assert context(shape, "-c 100 -np 1").n_tokens == 100
    assert context(shape, "-np 3 -ub 128").n_tokens == 129


def test_logits_are_those_of_a_token_of_each_slot_unless_embeddings_are_served(shape: ModelShape) -> None:
    assert context(shape, "-np 4").n_outputs_max == 4
    assert context(shape, "-np 2 --embedding -ub 512").n_outputs_max == 512
    assert context(shape, "-np 2 --embedding -b 64 -ub 512").n_outputs_max == 64
    assert context(shape, "-np 2 --pooling last").n_outputs_max == 2048
    assert context(shape, "-np 2 --pooling none").n_outputs_max == 2
    assert context(shape, "-np 2 --spec-default").n_outputs_max == 130
