"""Shapes of models, and headers whose numbers were made to harm."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.hostlib import gguf
from plugins.module_utils.hostlib.model_shape import ModelShape, shape_of
from tests.fakes import tiny_mmproj
from tests.memory_model_list import MODELS
from tests.memory_models import Model, write

Header = Callable[..., gguf.Header]


@pytest.fixture
def header(tmp_path: Path) -> Header:
    """The header of a small model with other values; None takes one away."""

    def made(**values: Any) -> gguf.Header:
        model = MODELS["qwen3"]
        changed = {**model.values, **{key.replace("__", "."): value for key, value in values.items()}}
        kept = {key: value for key, value in changed.items() if value is not None}
        return gguf.read_header(str(write(tmp_path / "m.gguf", Model(model.architecture, kept, model.tensors))))

    return made


def shape(header: gguf.Header) -> ModelShape:
    return shape_of([header])


def test_numbers_and_tensors_are_those_of_the_header(header: Header) -> None:
    found = shape(header(n_deepstack_layers=3))
    assert (found.architecture, found.n_layer, found.n_embd, found.n_vocab) == ("qwen3", 9, 2560, 151936)
    assert (found.head_k, found.head_v, found.n_head, found.n_head_kv) == (128, 128, (32,) * 9, (8,) * 9)
    assert found.tensors["blk.0.attn_q.weight"].shape == (2560, 4096)
    assert found.integer("n_deepstack_layers") == 3
    assert found.size_bytes == sum(tensor.size_bytes for tensor in found.tensors.values())


def test_what_is_not_told_follows_from_other_numbers(tmp_path: Path) -> None:
    model = MODELS["qwen3"]
    told = {
        key: value for key, value in model.values.items() if "head_count_kv" not in key and "length" not in key[10:]
    }
    path = write(
        tmp_path / "m.gguf", Model("qwen3", {**told, "embedding_length": 2560, "context_length": 4096}, model.tensors)
    )
    found = shape_of(gguf.read_model(str(path)))
    assert (found.head_k, found.n_head_kv[0], found.n_rot) == (80, 32, 128)


def test_numbers_of_each_layer_are_kept(tmp_path: Path) -> None:
    found = shape_of(gguf.read_model(str(write(tmp_path / "m.gguf", MODELS["lfm2"]))))
    assert found.n_head_kv == (0, 0, 8, 0, 0, 8, 0, 0)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no layers": ({"block_count": None}, "qwen3.block_count is missing"),
    "none at all": ({"block_count": 0}, "qwen3.block_count is 0"),
    "too many layers": ({"block_count": 100_000}, "qwen3.block_count is 100000"),
    "layers in words": ({"block_count": "nine"}, "qwen3.block_count is nine"),
    "no width": ({"embedding_length": None}, "embedding_length is missing"),
    "endless width": ({"embedding_length": 4_294_967_295}, "embedding_length is 4294967295"),
    "too few heads": ({"attention__head_count_kv": [8, 8]}, "head_count_kv has 2 numbers for 9 layers"),
    "negative heads": ({"attention__head_count_kv": [-1] * 9}, "head_count_kv has 9 numbers for 9 layers"),
    "too many experts": ({"expert_count": 5000}, "expert_count is 5000"),
    "more experts used than there are": ({"expert_count": 8, "expert_used_count": 2_000_000_000}, "of 8 experts are"),
    "more drafting layers than there are": ({"nextn_predict_layers": 12}, "nextn_predict_layers is 12"),
    "a fraction": ({"attention__key_length": 1.5}, "key_length is 1.5"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_numbers_that_can_not_be_are_told_in_one_line(name: str, header: Header) -> None:
    values, says = BROKEN[name]
    whole = header()
    changed = {**whole.values, **{f"qwen3.{key.replace('__', '.')}": value for key, value in values.items()}}
    lists = {key: tuple(value) if isinstance(value, list) else value for key, value in changed.items()}
    with pytest.raises(gguf.GgufError) as caught:
        shape(replace(whole, values={key: value for key, value in lists.items() if value is not None}))
    assert says in str(caught.value)
    assert "take another conversion" in str(caught.value)


def test_a_model_without_an_architecture_is_none(header: Header) -> None:
    whole = header()
    for name in ("", "x" * 100, "a\nb", 7):
        with pytest.raises(gguf.GgufError, match=r"general\.architecture names none"):
            shape(replace(whole, values={**whole.values, "general.architecture": name}))


def test_a_tensor_in_two_files_is_told(header: Header) -> None:
    with pytest.raises(gguf.GgufError, match="is in two of its files"):
        shape_of([header(), header()])


def test_random_numbers_give_a_shape_or_an_error(header: Header) -> None:
    dice, whole = random.Random(1), header()  # noqa: S311 - no secret
    odd: list[Any] = [
        0,
        -1,
        1,
        3,
        255,
        1 << 31,
        (1 << 64) - 1,
        1.5,
        float("nan"),
        float("inf"),
        True,
        "",
        "x" * 4000,
        (),
        (1,) * 9,
        (0,) * 400,
    ]
    for _ in range(2000):
        values: dict[str, Any] = dict(whole.values)
        for key in dice.sample(sorted(values), 3):
            values[key] = dice.choice(odd)
        found, refusal = shape_or_refusal(replace(whole, values=values))
        assert refusal.isprintable()
        assert len(refusal) < 500
        assert bool(refusal) or (found and len(found.n_head_kv) == found.n_layer_all <= 512)


def shape_or_refusal(header: gguf.Header) -> tuple[ModelShape | None, str]:
    try:
        return shape(header), ""
    except gguf.GgufError as error:
        return None, str(error)


def test_a_projector_has_tensors_and_none_of_a_models_numbers(tmp_path: Path) -> None:
    tiny_mmproj.write(tmp_path / "mmproj.gguf")
    found = shape_of(gguf.read_model(str(tmp_path / "mmproj.gguf")))
    assert (found.architecture, found.name, found.n_layer_all, found.n_ctx_train) == ("clip", "tiny-projector", 0, 0)
    assert "mm.0.weight" in found.tensors
