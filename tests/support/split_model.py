"""A model in several files, as llama-gguf-split writes them, of some hundred bytes each."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from gguf import GGUFWriter


def split_model(count: int, seed: int = 0, tensors_of_last: int = 1) -> list[bytes]:
    """The files of a model with one tensor in each, but for the last; others for another seed."""
    return [_part(number, count, seed, tensors_of_last if number == count - 1 else 1) for number in range(count)]


def _part(number: int, count: int, seed: int, tensors: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.gguf"
        writer = GGUFWriter(path, "llama")
        writer.add_uint16("split.count", count)
        writer.add_uint16("split.no", number)
        writer.add_int32("split.tensors.count", count)
        for tensor in range(tensors):
            values = np.full(32, number + 100 * seed, dtype=np.float32)
            writer.add_tensor(f"blk.{number}.{tensor}", values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()
