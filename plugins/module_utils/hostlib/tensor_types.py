"""Types of tensors by their numbers in files: name, and elements and bytes of a block.

    TENSOR_TYPES[12]                          TensorType(name="q4_K", per_block=256, block_bytes=144)
    type_number("q8_0")                       8

The one table of the project, that of the pinned llama.cpp's ggml.c; tests hold it against a built llama.cpp and against
the gguf package. Python 3.9's standard library only.
"""

from __future__ import annotations

from typing import NamedTuple


class TensorType(NamedTuple):
    """A type of tensors."""

    name: str
    per_block: int
    """Elements of a block; 1 where elements are not grouped."""
    block_bytes: int


TENSOR_TYPES = {
    number: TensorType(*row)
    for number, row in {
        0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20), 6: ("q5_0", 32, 22),
        7: ("q5_1", 32, 24), 8: ("q8_0", 32, 34), 9: ("q8_1", 32, 36), 10: ("q2_K", 256, 84), 11: ("q3_K", 256, 110),
        12: ("q4_K", 256, 144), 13: ("q5_K", 256, 176), 14: ("q6_K", 256, 210), 15: ("q8_K", 256, 292),
        16: ("iq2_xxs", 256, 66), 17: ("iq2_xs", 256, 74), 18: ("iq3_xxs", 256, 98), 19: ("iq1_s", 256, 50),
        20: ("iq4_nl", 32, 18), 21: ("iq3_s", 256, 110), 22: ("iq2_s", 256, 82), 23: ("iq4_xs", 256, 136),
        24: ("i8", 1, 1), 25: ("i16", 1, 2), 26: ("i32", 1, 4), 27: ("i64", 1, 8), 28: ("f64", 1, 8),
        29: ("iq1_m", 256, 56), 30: ("bf16", 1, 2), 34: ("tq1_0", 256, 54), 35: ("tq2_0", 256, 66),
        39: ("mxfp4", 32, 17), 40: ("nvfp4", 64, 36), 41: ("q1_0", 128, 18), 42: ("q2_0", 64, 18),
    }.items()
}  # fmt: skip


def type_number(name: str) -> int:
    """The number of a type. Raises KeyError for a name that none has."""
    return {one.name: number for number, one in TENSOR_TYPES.items()}[name]


def row_bytes(number: int, elements: int) -> int:
    """Bytes of so many elements in a row; 0 of a type that is not in the table."""
    known = TENSOR_TYPES.get(number)
    return elements // known.per_block * known.block_bytes if known else 0
