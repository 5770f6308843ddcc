"""The table of tensor types, held against the gguf package; tests/integration holds it against llama.cpp."""

from __future__ import annotations

import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from plugins.module_utils.hostlib.tensor_types import TENSOR_TYPES, row_bytes, type_number


def test_names_and_sizes_are_those_of_the_gguf_package() -> None:
    package = {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()}
    del package[9]  # Q8_1 is no type of files, and the package has a former size of it
    ours = {number: (one.per_block, one.block_bytes) for number, one in TENSOR_TYPES.items()}
    assert package.items() <= ours.items()
    for number in package:
        assert TENSOR_TYPES[number].name.lower() == GGMLQuantizationType(number).name.lower()


def test_the_new_types_of_four_bits_are_there() -> None:
    assert TENSOR_TYPES[type_number("mxfp4")][1:] == (32, 17)
    assert TENSOR_TYPES[type_number("nvfp4")][1:] == (64, 36)


def test_rows_are_whole_blocks_and_those_of_an_unknown_type_have_no_size() -> None:
    assert row_bytes(type_number("q8_0"), 64) == 68
    assert row_bytes(99, 64) == 0
    with pytest.raises(KeyError):
        type_number("q9_0")
