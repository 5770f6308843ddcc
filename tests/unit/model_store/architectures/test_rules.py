"""Layers with windows, by what headers say of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nexus_tasks.hostlib import gguf
from nexus_tasks.hostlib.model_shape import ModelShape, shape_of
from nexus_tasks.model_store.architectures.rules import Window
from nexus_tasks.model_store.architectures.table import ARCHITECTURES
from tests.memory_model_list import MODELS
from tests.memory_models import write


@pytest.fixture
def shape(tmp_path: Path) -> ModelShape:
    """A model of nine layers."""
    return shape_of(gguf.read_model(str(write(tmp_path / "m.gguf", MODELS["qwen3"]))))


def text(window: Window, shape: ModelShape) -> str:
    return "".join("w" if one else "." for one in window.layers(shape))


def test_a_period_ends_or_begins_with_the_layer_without_a_window(shape: ModelShape) -> None:
    assert text(Window(4), shape) == "www.www.w"
    assert text(Window(4, dense_first=True), shape) == ".www.www."
    assert text(Window(0), shape) == "wwwwwwwww"


def test_the_metadata_wins(shape: ModelShape) -> None:
    assert text(Window(4), replace(shape, values={"attention.sliding_window_pattern": 2})) == "w.w.w.w.w"
    listed = (True, False, False, True, False, False, False, False, True)
    assert text(Window(4), replace(shape, values={"attention.sliding_window_pattern": listed})) == "w..w....w"


def test_layers_of_multi_token_prediction_have_none(shape: ModelShape) -> None:
    assert text(Window(4), replace(shape, n_layer_nextn=2)) == "www.www.."


def test_a_window_has_the_size_of_the_metadata_or_its_own(shape: ModelShape) -> None:
    gemma2, llama4, exaone = (ARCHITECTURES[name] for name in ("gemma2", "llama4", "exaone4"))
    told = replace(shape, values={"attention.sliding_window": 100})
    assert (gemma2.window_size(shape), gemma2.window_size(told)) == (4096, 100)
    assert (llama4.window_size(shape), llama4.window_size(told)) == (8192, 8192)
    assert llama4.window_size(replace(shape, values={"attention.sliding_window": 0})) == 0
    assert (exaone.window_size(told), exaone.window_size(replace(told, n_layer_all=64))) == (0, 100)
