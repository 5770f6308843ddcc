"""Devices of layers and tensors; their bytes are held against llama.cpp's in test_memory.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_tasks.hostlib import gguf
from nexus_tasks.hostlib.model_shape import ModelShape, shape_of
from nexus_tasks.model_store.placement import Placement, mapped_bytes, place, weight_bytes
from nexus_tasks.model_store.server_options import parse_options
from tests.memory_model_list import MODELS
from tests.memory_models import write


def shape_named(folder: Path, name: str) -> ModelShape:
    return shape_of(gguf.read_model(str(write(folder / "m.gguf", MODELS[name]))))


@pytest.fixture
def shape(tmp_path: Path) -> ModelShape:
    """Nine layers, and a head that is the token embedding."""
    return shape_named(tmp_path, "qwen3")


def placed(shape: ModelShape, line: str, *free_mib: float) -> Placement:
    return place(shape, parse_options(line.split())[0], free_mib)


def test_the_last_layers_go_to_the_gpus_and_the_output_is_one_of_them(shape: ModelShape) -> None:
    assert placed(shape, "-ngl 0", 1000).layers == (1,) * 10
    assert placed(shape, "-ngl 1", 1000).layers == (1,) * 9 + (0,)
    assert placed(shape, "-ngl 3", 1000).layers == (1,) * 7 + (0,) * 3
    assert placed(shape, "", 1000).full


def test_layers_are_split_by_free_memory_or_as_asked(shape: ModelShape) -> None:
    assert placed(shape, "", 3000, 1000).layers == (0,) * 8 + (1,) * 2
    assert placed(shape, "-ts 1,1", 3000, 1000).layers == (0,) * 5 + (1,) * 5
    assert placed(shape, "-ts 0,1", 3000, 1000).layers == (1,) * 10
    assert placed(shape, "", 0, 0).layers == (0,) * 10 or placed(shape, "", 0, 0).layers == (1,) * 10


def test_the_first_pattern_that_fits_counts(shape: ModelShape) -> None:
    found = placed(shape, "-ot blk.0.ffn_up=CUDA1,blk.0=CPU", 1000, 1000).tensor_devices
    assert found["blk.0.ffn_up.weight"] == 1
    assert found["blk.0.ffn_down.weight"] == 2


def test_a_tied_head_is_there_twice_where_it_is_computed_elsewhere(shape: ModelShape) -> None:
    size = shape.tensors["token_embd.weight"].size_bytes
    assert [tensor.name for tensor, _ in placed(shape, "", 1000).duplicates] == ["token_embd.weight"]
    assert placed(shape, "-ngl 0", 1000).duplicates == ()
    assert weight_bytes(shape, placed(shape, "-ngl 1", 1000))[0] > size


def test_factors_of_rope_are_on_each_device_with_layers(tmp_path: Path) -> None:
    shape = shape_named(tmp_path, "Llama-3.1-8B-Q4_K_M")
    where = placed(shape, "", 1000, 1000)
    assert [(tensor.name, device) for tensor, device in where.duplicates] == [("rope_freqs.weight", 1)]


def test_the_span_of_the_file_between_tensors_of_the_host_is_mapped(tmp_path: Path) -> None:
    shape = shape_named(tmp_path, "qwen3moe")
    embedding = shape.tensors["token_embd.weight"].size_bytes
    assert mapped_bytes(shape, placed(shape, "", 1000)) == embedding
    between = mapped_bytes(shape, placed(shape, "--n-cpu-moe 2", 1000))
    assert between > weight_bytes(shape, placed(shape, "--n-cpu-moe 2", 1000))[-1]
