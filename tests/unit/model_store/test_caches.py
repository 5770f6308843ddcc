"""Cells and rows of caches; their bytes are held against llama.cpp's in test_memory.py."""

from __future__ import annotations

from pathlib import Path

from nexus_tasks.hostlib import gguf
from nexus_tasks.hostlib.model_shape import ModelShape, shape_of
from nexus_tasks.model_store.architectures.table import rules_of
from nexus_tasks.model_store.caches import FULL, RECURRENT, SWA, Cache, cache_layers, cells_of
from nexus_tasks.model_store.context import Context, context_of
from nexus_tasks.model_store.placement import place
from nexus_tasks.model_store.server_options import parse_options
from tests.memory_model_list import MODELS
from tests.memory_models import write


def of(folder: Path, name: str, line: str) -> tuple[ModelShape, Context, list[Cache]]:
    shape = shape_of(gguf.read_model(str(write(folder / "m.gguf", MODELS[name]))))
    options, _ = parse_options(line.split())
    context = context_of(shape, options)
    return shape, context, cache_layers(shape, rules_of(shape), context, place(shape, options, [1000]))


def test_windows_have_as_many_cells_as_they_and_a_batch_need(tmp_path: Path) -> None:
    for line, cells in {
        "-np 2 -kvu": 2 * 128 + 512,
        "-np 2": 768,
        "-np 1 -c 512": 512,
        "-np 2 --swa-full": 65536,
    }.items():
        shape, context, _ = of(tmp_path, "gpt-oss-20b-Q4_K_M", line)
        assert cells_of(SWA, shape, rules_of(shape), context) == cells, line


def test_every_sixth_layer_of_gemma_has_no_window(tmp_path: Path) -> None:
    _, _, caches = of(tmp_path, "gemma3-1b", "-c 8192 -np 1")
    assert [cache.layer for cache in caches if cache.kind == FULL] == [5, 11]


def test_compressed_keys_hold_the_values(tmp_path: Path) -> None:
    _, _, caches = of(tmp_path, "DeepSeek-V2-Lite-Q4_K_M", "-c 8192 -np 1")
    assert {len(cache.tensors) for cache in caches} == {1}


def test_hybrids_have_states_in_place_of_caches(tmp_path: Path) -> None:
    _, _, caches = of(tmp_path, "qwen3next", "-c 8192 -np 3")
    assert "".join(cache.kind[0] for cache in caches) == "rrrfrrrf"
    states = next(cache for cache in caches if cache.kind == RECURRENT)
    assert [(tensor.width, tensor.rows) for tensor in states.tensors] == [(3 * 8192, 3), (128 * 4096, 3)]


def test_where_v_is_transposed_its_rows_are_as_wide_as_the_widest(tmp_path: Path) -> None:
    _, _, caches = of(tmp_path, "lfm2", "-c 8192 -np 1 -fa off")
    assert {cache.tensors[1].width for cache in caches if cache.kind == FULL} == {512}
