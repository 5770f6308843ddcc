"""Tensors of a model's input, which llama.cpp keeps on the processor whatever is offloaded."""

from __future__ import annotations

import os
import struct
from typing import Any, ClassVar

from ..errors import HostError
from ..gpus import MIB

INPUT_TENSORS = ("token_embd", "token_types", "position_embd", "per_layer_token_embd", "altup", "conv1d")


def input_mib(path: str) -> float:
    """MiB from the first to the last input tensor of a GGUF file: what llama.cpp maps for the processor at most.

    The layout is that of ggml's docs/gguf.md: header, metadata, then a name, shape, type and offset for each tensor.
    """
    with open(path, "rb") as stream:
        reader = _Gguf(stream)
        names = reader.tensors()
    end_of_data = os.path.getsize(path)
    offsets = [*sorted(offset for _, offset in names), end_of_data - reader.data_start]
    ends = dict(zip(offsets, offsets[1:]))
    spans = [(offset, ends[offset]) for name, offset in names if name.startswith(INPUT_TENSORS)]
    return (max(stop for _, stop in spans) - min(start for start, _ in spans)) / MIB if spans else 0.0


class _Gguf:
    """As much of a GGUF header as says where each tensor begins."""

    SIZES: ClassVar = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    STRING, ARRAY = 8, 9

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.alignment = 32
        self.data_start = 0

    def tensors(self) -> list[tuple[str, int]]:
        """Name and offset of each tensor. Raises HostError when this is not a GGUF file."""
        if self.stream.read(4) != b"GGUF":
            raise HostError(f"{self.stream.name} is not a GGUF file: fetch it again")
        self._number("<I")
        tensor_count, pair_count = self._number("<Q"), self._number("<Q")
        for _ in range(pair_count):
            name = self._string()
            kind = self._number("<I")
            if name == "general.alignment":
                self.alignment = self._number("<I")
            else:
                self._skip(kind)
        tensors = []
        for _ in range(tensor_count):
            name = self._string()
            self.stream.seek(8 * self._number("<I") + 4, os.SEEK_CUR)
            tensors.append((name, self._number("<Q")))
        here = self.stream.tell()
        self.data_start = here + -here % self.alignment
        return tensors

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self.stream.read(struct.calcsize(form)))[0])

    def _string(self) -> str:
        return str(self.stream.read(self._number("<Q")).decode(errors="replace"))

    def _skip(self, kind: int) -> None:
        if kind == self.STRING:
            self.stream.seek(self._number("<Q"), os.SEEK_CUR)
        elif kind == self.ARRAY:
            of, count = self._number("<I"), self._number("<Q")
            if of in self.SIZES:
                self.stream.seek(self.SIZES[of] * count, os.SEEK_CUR)
            else:
                for _ in range(count):
                    self._skip(of)
        else:
            self.stream.seek(self.SIZES[kind], os.SEEK_CUR)
