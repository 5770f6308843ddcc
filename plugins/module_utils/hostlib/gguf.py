"""GGUF headers: which tensors a model file has, where they lie, and where the file must end.

    header = read_header("model.gguf")
    header.size_bytes < header.end_bytes      # it was cut short
    [tensor.name for tensor in header.tensors]

The layout is that of ggml's docs/gguf.md: magic, version, counts, metadata, then a name, shape, type and offset for
each tensor, and their data from the next multiple of the alignment on. Python 3.9's standard library only.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # that llama.cpp reads; little-endian

# Types of metadata values: those of a fixed size with it in bytes, and the others.
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
UINT16, UINT32, STRING, ARRAY = 2, 4, 8, 9

# Elements and bytes of a block, by the number of the tensor type (ggml's own table).
TENSOR_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip


class GgufError(Exception):
    """No GGUF file that llama.cpp reads: why, and what to do, in one line."""


@dataclass(frozen=True)
class Tensor:
    """One tensor as the header describes it."""

    name: str
    shape: tuple[int, ...]
    type: int
    """A number of TENSOR_BLOCKS, or one that is newer than that table."""
    offset: int
    """Bytes from the begin of the tensors' data."""

    @property
    def size_bytes(self) -> int:
        """Bytes that its data takes; 0 for an unknown type."""
        elements = 1
        for length in self.shape:
            elements *= length
        per_block, block_bytes = TENSOR_BLOCKS.get(self.type, (1, 0))
        return elements // per_block * block_bytes


@dataclass(frozen=True)
class Header:
    """A header, and the size of the file that it is of."""

    size_bytes: int
    tensors: tuple[Tensor, ...]
    data_start: int
    """The offset at which the tensors' data begins."""
    split_count: int
    """The number of files that the model was split into."""

    @property
    def end_bytes(self) -> int:
        """The least number of bytes that a whole file has; of tensors of an unknown type only the start counts."""
        return self.data_start + max((tensor.offset + tensor.size_bytes for tensor in self.tensors), default=0)


def read_header(path: str) -> Header:
    """The header of a file. Raises GgufError, also where the file ends within it, and OSError."""
    with open(path, "rb") as stream:
        return _Reader(stream, path).header()


class _Reader:
    """Reads a header piece by piece."""

    def __init__(self, stream: BinaryIO, path: str) -> None:
        self._stream = stream
        self._path = path
        self._size = os.fstat(stream.fileno()).st_size

    def header(self) -> Header:
        magic = self._stream.read(len(MAGIC))
        if magic != MAGIC:
            raise GgufError(
                f"{self._path} is not a GGUF file: it begins with {magic!r}, not with {MAGIC!r}; name a file in GGUF "
                "format"
            )
        version = self._number("I")
        if version not in VERSIONS:
            raise GgufError(
                f"{self._path} has GGUF version {version}, llama.cpp reads 2 and 3 (little-endian): "
                "take another conversion of the model"
            )
        tensor_count, value_count = self._number("Q"), self._number("Q")
        alignment, split_count = 32, 1
        for _ in range(value_count):
            key, kind = self._read(self._number("Q")), self._number("I")
            if key == b"general.alignment" and kind == UINT32:
                alignment = self._number("I") or 1
            elif key == b"split.count" and kind == UINT16:
                split_count = max(1, self._number("H"))
            else:
                self._skip_value(kind)
        tensors = tuple(self._tensor() for _ in range(tensor_count))
        here = self._stream.tell()
        return Header(self._size, tensors, here + -here % alignment if tensors else here, split_count)

    def _tensor(self) -> Tensor:
        name = self._read(self._number("Q")).decode(errors="replace")
        shape = tuple(self._number("Q") for _ in range(self._number("I")))
        return Tensor(name, shape, type=self._number("I"), offset=self._number("Q"))

    def _read(self, count: int) -> bytes:
        data = self._stream.read(count) if count <= self._size else b""
        if len(data) != count:
            raise GgufError(
                f"{self._path} is truncated: its header goes beyond the file's {self._size} bytes; "
                "copy or download it again"
            )
        return data

    def _number(self, code: str) -> int:
        return int(struct.unpack("<" + code, self._read(struct.calcsize("<" + code)))[0])

    def _skip(self, count: int) -> None:
        # Short pieces lie in the read buffer, where reading is cheaper than seeking.
        if count < 4096:
            self._read(count)
        else:
            self._stream.seek(count, os.SEEK_CUR)

    def _skip_value(self, kind: int) -> None:
        if kind in SCALAR_BYTES:
            self._skip(SCALAR_BYTES[kind])
        elif kind == STRING:
            self._skip(self._number("Q"))
        elif kind == ARRAY:
            inner, count = self._number("I"), self._number("Q")
            if inner in SCALAR_BYTES:
                self._skip(SCALAR_BYTES[inner] * count)
            else:
                for _ in range(count):
                    self._skip_value(inner)
        else:
            raise GgufError(
                f"{self._path} is damaged: its header has a value of type {kind}; copy or download it again"
            )
