"""Headers of GGUF files, held against what the gguf package writes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGUFReader, GGUFWriter

from nexus_tasks.model_store import tiny_model
from plugins.module_utils.hostlib import gguf

SMALL = tiny_model.Shape(n_layer=1, n_embd=64, n_head=2, n_head_kv=1, n_ff=64)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real GGUF file."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    tiny_model.write(path, shape=SMALL)
    return path


def head(version: int = 3, tensors: int = 0, values: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, values) + rest


def test_the_sizes_of_tensor_types_are_those_of_the_gguf_package() -> None:
    assert {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()} == gguf.TENSOR_BLOCKS


def test_tensors_lie_where_the_gguf_package_finds_them(model: Path) -> None:
    header, reader = gguf.read_header(str(model)), GGUFReader(model)
    assert [(one.name, list(one.shape), one.type, header.data_start + one.offset, one.size_bytes)
            for one in header.tensors] == [
        (one.name, one.shape.tolist(), int(one.tensor_type), int(one.data_offset), int(one.n_bytes))
        for one in reader.tensors
    ]  # fmt: skip
    assert header.size_bytes == header.end_bytes == model.stat().st_size
    assert header.split_count == 1


def test_another_alignment_counts(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_custom_alignment(512)
    writer.add_tensor("a", np.ones(3, dtype=np.float32))
    writer.add_tensor("b", np.ones(5, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = gguf.read_header(str(path))
    assert (header.data_start % 512, [one.offset for one in header.tensors]) == (0, [0, 512])
    assert header.end_bytes == header.data_start + 512 + 20


@pytest.mark.parametrize(("count", "parts"), [(3, 3), (0, 1)])
def test_of_a_split_model_it_is_known_into_how_many_files(tmp_path: Path, count: int, parts: int) -> None:
    key = b"split.count"
    (tmp_path / "part").write_bytes(
        head(values=1, rest=struct.pack("<Q", len(key)) + key + struct.pack("<IH", 2, count))
    )
    assert gguf.read_header(str(tmp_path / "part")).split_count == parts


def test_of_a_tensor_type_that_is_newer_only_the_start_counts(tmp_path: Path) -> None:
    tensor = struct.pack("<Q", 1) + b"a" + struct.pack("<IQIQ", 1, 32, 99, 64)
    (tmp_path / "new").write_bytes(head(tensors=1, rest=tensor))
    header = gguf.read_header(str(tmp_path / "new"))
    assert (header.tensors[0].size_bytes, header.end_bytes) == (0, header.data_start + 64)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!doctype html>", "is not a GGUF file: it begins with b'<!do', not with b'GGUF'"),
        (b"", "is not a GGUF file: it begins with b''"),
        (head(version=1), "has GGUF version 1, llama.cpp reads 2 and 3"),
        (head(version=3 << 24), "has GGUF version 50331648"),
        (b"GGUF\3", "is truncated: its header goes beyond the file's 5 bytes"),
        (head(tensors=1), "is truncated"),
        (head(values=1, rest=struct.pack("<Q", 1 << 60)), "is truncated"),
        (head(values=1, rest=struct.pack("<QI", 0, 13)), "is damaged: its header has a value of type 13"),
    ],
)
def test_what_is_no_header_is_told_in_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(gguf.GgufError) as caught:
        gguf.read_header(str(tmp_path / "file"))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_of_all_types_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_string("text", "x" * 5000)
    writer.add_array("words", ["a", "b" * 300])
    writer.add_array("numbers", list(range(3000)))
    writer.add_bool("flag", True)
    writer.add_float64("float", 1.0)
    writer.add_uint16("split.count", 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert gguf.read_header(str(path)).split_count == 2
