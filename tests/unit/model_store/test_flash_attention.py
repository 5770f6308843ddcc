"""Kernels of FlashAttention that CUDA has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.hostlib import gguf
from nexus_tasks.hostlib.model_shape import ModelShape, shape_of
from nexus_tasks.model_store.architectures.table import rules_of
from nexus_tasks.model_store.flash_attention import resolved
from nexus_tasks.model_store.placement import place
from nexus_tasks.model_store.server_options import parse_options
from tests.memory_model_list import MODELS
from tests.memory_models import write


@pytest.fixture
def shape(tmp_path: Path) -> ModelShape:
    """A model with heads of 128, four of which share one of the cache."""
    return shape_of(gguf.read_model(str(write(tmp_path / "m.gguf", MODELS["qwen3"]))))


def result(shape: ModelShape, line: str, *free_mib: float) -> str:
    options, _ = parse_options(line.split())
    return resolved(shape, rules_of(shape), options, place(shape, options, free_mib or [24576]))


def test_auto_is_on_where_there_is_a_kernel(shape: ModelShape) -> None:
    odd = replace(shape, head_k=100, head_v=100)
    assert result(shape, "") == "on"
    assert result(odd, "") == "off"
    assert result(odd, "-ngl 0") == "on"
    with pytest.raises(UsageError, match="no kernel for heads of 100 and 100"):
        result(odd, "-fa on")


def test_layers_on_the_host_have_a_kernel_for_all(shape: ModelShape) -> None:
    assert result(shape, "-fa on -ctk iq4_nl -ctv iq4_nl -ngl 1") == "on"  # the output alone is on the GPU
    with pytest.raises(UsageError, match="no kernel for caches of type iq4_nl"):
        result(shape, "-ctk iq4_nl -ctv iq4_nl -ngl 2")


@pytest.mark.parametrize(
    ("head_k", "head_v", "heads", "on"),
    [
        (576, 512, 16, True),
        (576, 512, 8, False),
        (192, 128, 64, True),
        (192, 128, 32, False),
        (512, 512, 8, False),
        (512, 512, 16, True),
    ],
    ids=str,
)
def test_large_heads_need_sharing(shape: ModelShape, head_k: int, head_v: int, heads: int, on: bool) -> None:
    changed = replace(shape, head_k=head_k, head_v=head_v, n_head=(heads,) * 9)
    assert result(changed, "") == ("on" if on else "off")


def test_a_quantised_v_needs_it(shape: ModelShape) -> None:
    assert result(shape, "-fa off -ctk q8_0") == "off"
    assert result(shape, "-ctv q8_0") == "on"
    with pytest.raises(UsageError, match="no kernel for heads of 100 and 100"):
        result(replace(shape, head_k=100, head_v=100), "-ctv q8_0")
    with pytest.raises(UsageError, match="--cache-type-v q8_0 needs FlashAttention"):
        result(shape, "-fa off -ctv q8_0")
