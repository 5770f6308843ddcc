"""Headers of GGUF files, held against what the gguf package writes, and against what was made to harm."""

from __future__ import annotations

import contextlib
import re
import resource
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from nexus_tasks.model_store import tiny_model
from plugins.module_utils.hostlib import gguf
from tests.conftest import ROOT
from tests.damaged_gguf import damaged

SMALL = tiny_model.Shape(n_layer=1, n_embd=64, n_head=2, n_head_kv=1, n_ff=64)
HUGE = (1 << 64) - 1
MIB = 1 << 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real GGUF file."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    tiny_model.write(path, shape=SMALL)
    return path


def head(*rest: bytes, version: int = 3, tensors: int = 0, values: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, values) + b"".join(rest)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def value(key: bytes, kind: int, content: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + content


def array(kind: int, length: int) -> bytes:
    return struct.pack("<IQ", kind, length)


def tensor(name: bytes = b"a", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def parsed(content: bytes, size: int | None = None) -> gguf.Header:
    """The header of a file that begins so."""
    return gguf.parse_header(
        lambda offset, length: content[offset : offset + length], len(content) if size is None else size, "m.gguf"
    )


def refusal(content: bytes, size: int | None = None) -> str:
    """Why a header is refused; nothing where it is read."""
    try:
        parsed(content, size)
    except gguf.GgufError as error:
        return str(error)
    return ""


def written(path: Path, fill: Callable[[GGUFWriter], None]) -> gguf.Header:
    """The header of what the gguf package writes."""
    writer = GGUFWriter(path, "llama")
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf.read_header(str(path))


def test_nothing_else_reads_headers() -> None:
    """A second reader would need bounds of its own."""
    own = Path(gguf.__file__)
    files = [path for place in ("plugins", "nexus_tasks") for path in (ROOT / place).rglob("*.py")]
    others = [path for path in files if not path.samefile(own)]
    assert [path for path in others if re.search(r"b[\"']GGUF|GGUFReader", path.read_text(encoding="utf-8"))] == []


def test_tensors_lie_where_the_gguf_package_finds_them(model: Path) -> None:
    header, reader = gguf.read_header(str(model)), GGUFReader(model)
    assert [(one.name, list(one.shape), one.type, header.data_start + one.offset, one.size_bytes)
            for one in header.tensors] == [
        (one.name, one.shape.tolist(), int(one.tensor_type), int(one.data_offset), int(one.n_bytes))
        for one in reader.tensors
    ]  # fmt: skip
    assert header.size_bytes == header.end_bytes == model.stat().st_size
    assert header.split_count == 1


def test_values_are_those_that_the_gguf_package_reads(model: Path) -> None:
    values, reader = gguf.read_header(str(model)).values, GGUFReader(model)
    for key, kept in values.items():
        expected = reader.fields[key].contents()
        assert kept == (tuple(expected) if isinstance(expected, list) else expected), key
    assert {"general.architecture", "llama.context_length"} <= set(values)
    assert "tokenizer.ggml.tokens" in set(reader.fields) - set(values)  # a vocabulary is passed over


def test_every_truncation_is_noticed(model: Path) -> None:
    content = model.read_bytes()
    for size in (*range(4, 4000, 97), len(content) // 2, len(content) - 1):
        with pytest.raises(gguf.GgufError, match="is truncated"):
            parsed(content[:size])


def test_another_alignment_counts(tmp_path: Path) -> None:
    def fill(writer: GGUFWriter) -> None:
        writer.add_custom_alignment(512)
        writer.add_tensor("a", np.ones(3, dtype=np.float32))
        writer.add_tensor("b", np.ones(5, dtype=np.float32))

    header = written(tmp_path / "model.gguf", fill)
    assert (header.data_start % 512, [one.offset for one in header.tensors]) == (0, [0, 512])
    assert header.end_bytes == header.data_start + 512 + 20


def test_values_of_all_types_are_read_or_passed_over(tmp_path: Path) -> None:
    def fill(writer: GGUFWriter) -> None:
        writer.add_string("text", "x" * 5000)
        writer.add_array("words", ["a", "b" * 300])
        writer.add_array("numbers", list(range(3000)))
        writer.add_array("layers", [8, 4, 8])
        writer.add_bool("flag", True)
        writer.add_float64("float", 1.5)
        writer.add_int8("small", -3)
        writer.add_uint16("split.count", 2)

    header = written(tmp_path / "model.gguf", fill)
    assert header.values == {
        "general.architecture": "llama", "layers": (8, 4, 8), "flag": True, "float": 1.5, "small": -3, "split.count": 2,
    }  # fmt: skip
    assert header.split_count == 2


def test_of_a_split_model_without_a_count_there_is_one_file() -> None:
    assert parsed(head(value(b"split.count", 2, b"\0\0"), values=1)).split_count == 1


def test_of_a_tensor_type_that_is_newer_only_the_start_counts() -> None:
    content = head(tensor(kind=99), tensor(b"b", offset=64), tensors=2)
    header = parsed(content, 1 << 20)
    assert [one.size_bytes for one in header.tensors] == [0, 128]
    assert header.end_bytes == header.data_start + 64 + 128


def test_a_tensor_without_dimensions_has_one_element_as_for_llama_cpp() -> None:
    header = parsed(head(tensor(shape=()), tensor(b"b", offset=32), tensors=2), 1 << 20)
    assert [(one.shape, one.size_bytes) for one in header.tensors] == [((1,), 4), ((32,), 128)]


# By what is wrong the header, and what is said of it.
BROKEN = {
    "another format": (b"<!doctype html>", "is not a GGUF file: it begins with b'<!do', not with b'GGUF'"),
    "nothing": (b"", "is not a GGUF file: it begins with b''"),
    "a letter": (b"G", "is not a GGUF file: it begins with b'G'"),
    "version 0": (head(version=0), "has GGUF version 0, llama.cpp reads versions 2 and 3, little-endian; take another"),
    "version 1": (head(version=1), "has GGUF version 1, llama.cpp reads versions 2 and 3"),
    "version 4": (head(version=4), "has GGUF version 4, llama.cpp reads"),
    "big endian": (head(version=3 << 24), "is a big-endian file, llama.cpp reads"),
    "the magic alone": (b"GGUF\3", "is truncated: its header goes beyond the file's 5 bytes; copy or download it"),
    "no tensors": (head(tensors=1), "is truncated"),
    "a tensor too many": (head(tensor(), tensors=2), "is truncated"),
    "a tensor without data": (head(tensor(), tensors=1), "is truncated: header says "),
    "countless tensors": (head(tensors=HUGE), "claims to have 18446744073709551615 tensors, more than 65536"),
    "countless values": (head(values=HUGE), "claims to have 18446744073709551615 values, more than 2048"),
    "negative tensors": (head(tensors=1 << 63), "claims to have 9223372036854775808 tensors"),
    "an endless key": (head(struct.pack("<Q", HUGE), values=1), "a key has 18446744073709551615 bytes, more than 1024"),
    "no key": (head(value(b"", 4, b"\0" * 4), values=1), "a key is empty (byte 32 of its header)"),
    "a key twice": (head(2 * value(b"k", 0, b"\0"), values=2), "the key 'k' stands there twice"),
    "a type of value": (head(value(b"k", 13, b""), values=1), "'k' is of type 13"),
    "a key for a terminal": (head(value(b"\x1b]0;x\n", 13, b""), values=1), r"'\x1b]0;x\n' is of type 13"),
    "a key that is no UTF-8": (head(value(b"\xff", 13, b""), values=1), "is of type 13"),
    "an endless text": (head(value(b"k", 8, struct.pack("<Q", HUGE)), values=1), "is truncated"),
    "an endless array": (head(value(b"k", 9, array(0, HUGE)), values=1), "is truncated"),
    "a large endless array": (head(value(b"k", 9, array(12, HUGE)), values=1), "is truncated"),
    "endless texts": (head(value(b"k", 9, array(8, HUGE)), values=1), "'k' has 18446744073709551615 texts, more than"),
    "texts beyond the end": (head(value(b"k", 9, array(8, 9)), values=1), "is truncated"),
    "an endless text of some": (head(value(b"k", 9, array(8, 2)), struct.pack("<Q", HUGE), values=1), "is truncated"),
    "arrays in an array": (head(value(b"k", 9, array(9, 1)), array(0, 0), values=1), "'k' is an array of type 9"),
    "an unknown array": (head(value(b"k", 9, array(77, 1)), values=1), "'k' is an array of type 77"),
    "alignment 0": (head(value(b"general.alignment", 4, b"\0" * 4), values=1), "general.alignment is 0, not"),
    "alignment 48": (head(value(b"general.alignment", 4, b"0\0\0\0"), values=1), "general.alignment is 48, not"),
    "alignment as text": (head(value(b"general.alignment", 8, text(b"32")), values=1), "alignment is of type 8, not 4"),
    "alignment of 8 bytes": (head(value(b"general.alignment", 10, b"\0" * 8), values=1), "is of type 10, not 4"),
    "a split count of 4 bytes": (head(value(b"split.count", 4, b"\2\0\0\0"), values=1), "split.count is of type 4"),
    "a long name": (head(tensor(b"n" * 64), tensors=1), "the name of a tensor has 64 bytes, more than 63"),
    "a name twice": (head(tensor(), tensor(offset=128), tensors=2), "tensor 'a' stands there twice"),
    "5 dimensions": (head(tensor(shape=(1,) * 5), tensors=1), "tensor 'a' has 5 dimensions, more than 4"),
    "countless dimensions": (head(text(b"a"), struct.pack("<I", 0xFFFFFFFF), tensors=1), "has 4294967295 dimensions"),
    "a negative length": (head(tensor(shape=(32, HUGE)), tensors=1), "has the shape (32, 18446744073709551615)"),
    "none of a negative length": (head(tensor(shape=(0, HUGE)), tensors=1), "has the shape (0, 18446744073709551615)"),
    "a product that overflows": (head(tensor(shape=(1 << 32, 1 << 31)), tensors=1), "too large to be true"),
    "a part of a block": (head(tensor(shape=(33,), kind=2), tensors=1), "rows of 33 elements, its type blocks of 32"),
    "a block of nothing": (head(tensor(shape=(), kind=2), tensors=1), "rows of 1 elements, its type blocks of 32"),
    "an overlap": (head(tensor(), tensor(b"b", offset=32), tensors=2), "tensor 'b' lies at 32, not at 128 where it"),
    "the same place": (head(tensor(), tensor(b"b"), tensors=2), "tensor 'b' lies at 0, not at 128"),
    "a hole": (head(tensor(), tensor(b"b", offset=256), tensors=2), "tensor 'b' lies at 256, not at 128"),
    "a start that is not the start": (head(tensor(offset=32), tensors=1), "tensor 'a' lies at 32, not at 0"),
    "no alignment": (head(tensor(kind=99), tensor(b"b", offset=33), tensors=2), "tensor 'b' lies at 33, not at"),
    "an offset beyond all": (head(tensor(offset=HUGE), tensors=1), "tensor 'a' lies at 18446744073709551615, not at 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_header_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    content, says = BROKEN[name]
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(gguf.GgufError) as caught:
        gguf.read_header(str(tmp_path / "file"))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/file ")
    assert says in message
    assert message.isprintable()
    assert "copy or download it again" in message or "take another" in message or "name a file" in message


# By name a header that was made to take long, and the size of the file that it pretends to be of.
NASTY = {
    "dimensions": lambda: head(text(b"a"), struct.pack("<I", 80_000), struct.pack("<Q", 1) * 80_000, tensors=1),
    "a key of a GiB": lambda: head(struct.pack("<Q", 1 << 30), values=1),
    "empty texts": lambda: head(value(b"k", 9, array(8, 4 << 20)), bytes(8 * (4 << 20)), values=1),
    "texts in many arrays": lambda: head(
        *(value(b"%d" % number, 9, array(8, 1 << 18) + bytes(8 << 18)) for number in range(17)), values=17
    ),
    "long texts": lambda: head(value(b"k", 9, array(8, 100)), (struct.pack("<Q", MIB) + bytes(MIB)) * 100, values=1),
    "many values": lambda: head(
        *(value(b"%1024d" % number, 9, array(0, 512) + bytes(512)) for number in range(2048)), values=2048
    ),
    "many wide values": lambda: head(
        *(value(b"%1024d" % number, 9, array(12, 512) + bytes(range(256)) * 16) for number in range(2048)), values=2048
    ),
    "many tensors": lambda: head(
        *(tensor(b"%063d" % number, (1, 1, 1, 1), 99) for number in range(65536)), tensors=65536
    ),
    "a header of a GiB": lambda: head(value(b"k", 9, array(12, 1 << 27)), values=1),
}  # fmt: skip


@contextlib.contextmanager
def at_most(more: int) -> Iterator[None]:
    """Let this process have so many bytes more than it has, and no more."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("name", NASTY)
def test_no_header_takes_long_or_much_memory(name: str) -> None:
    content = NASTY[name]()
    began = time.process_time()
    with at_most(128 * MIB):
        assert refusal(content, 1 << 40).isprintable()
    assert time.process_time() - began < 5


def test_reading_is_linear_and_asks_for_each_byte_once() -> None:
    """A vocabulary like that of the largest models, over a line that counts."""
    words = b"".join(text(b"token %d" % number) for number in range(260_000))
    merges = b"".join(text(b"to ken%d" % number) for number in range(500_000))
    content = head(
        value(b"tokenizer.ggml.tokens", 9, array(8, 260_000) + words),
        value(b"tokenizer.ggml.scores", 9, array(6, 260_000) + bytes(4 * 260_000)),
        value(b"tokenizer.ggml.merges", 9, array(8, 500_000) + merges),
        tensor(), values=3, tensors=1,
    )  # fmt: skip
    asked: list[int] = []

    def read(offset: int, length: int) -> bytes:
        asked.append(length)
        return content[offset : offset + length]

    began = time.process_time()
    header = gguf.parse_header(read, 15 << 30, "m.gguf")
    assert time.process_time() - began < 5
    assert [one.name for one in header.tensors] == ["a"]
    assert sum(asked) < len(content) + 2 * gguf.CHUNK_BYTES
    assert len(asked) < len(content) / gguf.CHUNK_BYTES + 3


def test_what_a_source_of_ranges_raises_is_let_through_and_its_early_end_is_told() -> None:
    def breaks(offset: int, length: int) -> bytes:
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        gguf.parse_header(breaks, 1000, "https://host/m.gguf")
    with pytest.raises(gguf.GgufError, match=r"^m\.gguf is truncated: its header goes beyond the file's 24 bytes"):
        parsed(head(values=1), 1 << 30)


def test_a_mutated_header_is_read_or_told_in_one_line(model: Path) -> None:
    whole = model.read_bytes()
    end = gguf.read_header(str(model)).data_start
    refused = 0
    for content in damaged(whole, end, 4000):
        message = refusal(content)
        refused += bool(message)
        assert message.isprintable()
        assert len(message) < 1000
    assert refused > 1000


# ---- Models in several files


def split(folder: Path, *, counts: tuple[int, ...] = (2, 2, 2), numbers: tuple[int, ...] = (0, 1, 2)) -> Path:
    """A model in three files, two tensors each, and the path of the first."""
    for place, (tensors, number) in enumerate(zip(counts, numbers, strict=True), start=1):
        content = head(
            value(b"split.count", 2, b"\3\0"), value(b"split.no", 2, struct.pack("<H", number)),
            value(b"split.tensors.count", 5, struct.pack("<i", 6)),
            *(tensor(b"%d.%d" % (place, index), offset=128 * index) for index in range(tensors)),
            tensors=tensors, values=3,
        )  # fmt: skip
        path = folder / f"m-{place:05}-of-00003.gguf"
        path.write_bytes(content + bytes(-len(content) % 32 + 128 * tensors))
    return folder / "m-00001-of-00003.gguf"


def test_all_files_of_a_split_model_are_read_and_a_single_one_is_a_model(tmp_path: Path, model: Path) -> None:
    headers = gguf.read_model(str(split(tmp_path)))
    assert [header.name for header in headers] == [f"{tmp_path}/m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert [one.name for header in headers for one in header.tensors] == ["1.0", "1.1", "2.0", "2.1", "3.0", "3.1"]
    assert [header.name for header in gguf.read_model(str(model))] == [str(model)]


def test_files_of_a_split_model_can_come_from_elsewhere(tmp_path: Path) -> None:
    split(tmp_path)
    headers = gguf.read_model(
        "m-00001-of-00003.gguf", lambda name: gguf.read_header(str(tmp_path / name), f"host:{name}")
    )
    assert [header.name for header in headers] == [f"host:m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]


def test_of_a_split_model_what_is_not_whole_is_told(tmp_path: Path) -> None:
    first = split(tmp_path, counts=(2, 1, 2))
    with pytest.raises(gguf.GgufError, match="has 5 tensors in its 3 files, 6 make up the model; copy or download all"):
        gguf.read_model(str(first))
    split(tmp_path, numbers=(0, 2, 1))
    with pytest.raises(gguf.GgufError, match=r"m-00002-of-00003.gguf says that it is file 3 of 3, not 2 of 3; give"):
        gguf.read_model(str(first))
    split(tmp_path)
    (tmp_path / "m-00003-of-00003.gguf").unlink()
    with pytest.raises(gguf.GgufError, match=r"m-00003-of-00003.gguf is not there: of the model's 3 files this one is"):
        gguf.read_model(str(first))


@pytest.mark.parametrize("name", ["model.gguf", "m-00001-of-00004.gguf", "m-00002-of-00003.gguf", "m-1-of-3.gguf"])
def test_the_first_file_must_have_the_name_that_leads_to_the_others(tmp_path: Path, name: str) -> None:
    split(tmp_path).rename(tmp_path / name)
    with pytest.raises(gguf.GgufError, match=r"name the first, whose name must end with -00001-of-00003\.gguf"):
        gguf.read_model(str(tmp_path / name))
