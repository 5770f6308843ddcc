"""Variants: plans are made from what is known of the header, and are those of the file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.hostlib.gguf import read_model
from nexus_tasks.hostlib.model_shape import shape_of
from nexus_tasks.model_store.hub_listing import variant_of
from nexus_tasks.model_store.memory import Gpu, plan_memory
from nexus_tasks.model_store.registry import ModelFile, Variant
from nexus_tasks.model_store.server_options import parse_options
from nexus_tasks.model_store.variants import context_ladder, describe, needs_of, shape_of_variant
from tests.memory_model_list import MODELS
from tests.memory_models import write

BARE = variant_of([ModelFile(name="m-Q4_K_M.gguf", size_bytes=1)])


@pytest.mark.parametrize("name", ["qwen3moe", "gemma-3-27b-Q4_K_M", "DeepSeek-V2-Lite-Q4_K_M", "jamba", "qwen3next"])
def test_a_plan_from_what_is_known_is_that_of_the_file(tmp_path: Path, name: str) -> None:
    shape = shape_of(read_model(str(write(tmp_path / "m.gguf", MODELS[name]))))
    described = describe(BARE, lambda _: shape)
    kept = msgspec.json.decode(msgspec.json.encode(described), type=Variant)
    options, _ = parse_options(["-c", "16384", "-ngl", "3", "-np", "2"])
    plans = [plan_memory(one, options, [Gpu("CUDA0", 9000.0)]) for one in (shape, shape_of_variant(kept))]
    assert plans[0].devices == plans[1].devices
    assert described.needs[0] == needs_of(shape, described.needs[0].ctx_size)


def test_a_variant_without_a_header_has_no_shape() -> None:
    with pytest.raises(UsageError, match=r"the header of m-Q4_K_M.gguf is not known"):
        shape_of_variant(BARE)


def test_the_ladder_ends_with_the_models_own_context() -> None:
    assert context_ladder(10000) == [2048, 4096, 8192, 10000]
    assert context_ladder(8192) == [2048, 4096, 8192]
    assert context_ladder(512) == [512]
