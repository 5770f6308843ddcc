"""GGUF headers: what a model says of itself, which tensors it has, where they lie, and where the file must end.

    header = read_header("model.gguf")
    header.values["general.architecture"], [tensor.name for tensor in header.tensors]
    headers = read_model("model-00001-of-00003.gguf")         # of all its files; most models have one
    header = parse_header(read, size_bytes, "the model's name")     # of anything that gives ranges

The layout is that of ggml's docs/gguf.md: magic, version, counts, metadata, then a name, shape, type and offset for
each tensor, and their data from the next multiple of the alignment on. Whatever llama.cpp refuses in a header is
refused here. So is what is beyond any real model: a header that was made to harm ends in a GgufError, too, after
seconds and tens of MiB at most. Python 3.9's standard library only.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Union

from .tensor_types import TENSOR_TYPES, row_bytes

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # that llama.cpp reads; little-endian

# Types of metadata values: those of a fixed size as struct writes them, and the others.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
UINT16, UINT32, INT32, STRING, ARRAY = 2, 4, 5, 8, 9
# What llama.cpp takes in one type only.
KINDS = {"general.alignment": UINT32, "split.no": UINT16, "split.count": UINT16, "split.tensors.count": INT32}
ALIGNMENT = 32  # where the header names none

# llama.cpp's own limits.
MAX_DIMENSIONS = 4
MAX_TENSOR_NAME = 63
MAX_ELEMENTS = 1 << 63
# Limits far beyond any real model. The largest headers are those of vocabularies: 260,000 tokens with merges and scores
# are 15 MB.
MAX_HEADER_BYTES = 128 << 20
MAX_KEYS = 2048
MAX_KEY = 1024
MAX_STRINGS = 1 << 21
MAX_TENSORS = 1 << 16
MAX_TYPE = 255  # of a tensor; newer ones than TENSOR_TYPES are for llama.cpp to judge
MAX_FILES = 1000
# Longer values are passed over, unread.
KEPT_STRING_BYTES = 4096
KEPT_ELEMENTS = 512
CHUNK_BYTES = 1 << 20
SHOWN = 64  # characters of a name in an error

FIRST_OF_SEVERAL = re.compile(r"(.*)-00001-of-(\d{5})\.gguf", re.DOTALL)  # llama-gguf-split's name for it

U32, U64 = struct.Struct("<I"), struct.Struct("<Q")

Scalar = Union[int, float, bool]
Value = Union[Scalar, str, "tuple[Scalar, ...]"]
Read = Callable[[int, int], bytes]
"""Gives so many bytes from an offset on, fewer only where the file ends. Its errors are let through."""


class GgufError(Exception):
    """No GGUF file that llama.cpp reads, in one line: which and why, and behind its last semicolon what to do."""


class TruncatedError(GgufError):
    """A file that ends before it should, as its header tells."""


@dataclass(frozen=True)
class Tensor:
    """One tensor as the header describes it."""

    name: str
    shape: tuple[int, ...]
    type: int
    """A number of TENSOR_TYPES, or one that is newer than that table."""
    offset: int
    """Bytes from the begin of the tensors' data."""

    @property
    def size_bytes(self) -> int:
        """Bytes that its data takes; 0 for an unknown type."""
        return row_bytes(self.type, _product(self.shape))


@dataclass(frozen=True)
class Header:
    """A header, and the size of the file that it is of."""

    name: str
    """The file's, as it was given."""
    size_bytes: int
    values: dict[str, Value]
    """The metadata, but for long texts and arrays and for arrays of texts."""
    tensors: tuple[Tensor, ...]
    data_start: int
    """The offset at which the tensors' data begins."""

    @property
    def end_bytes(self) -> int:
        """The least number of bytes that a whole file has; of tensors of an unknown type only the start counts."""
        return self.data_start + max((tensor.offset + tensor.size_bytes for tensor in self.tensors), default=0)

    @property
    def split_count(self) -> int:
        """The number of files that the model was split into."""
        return max(1, self._whole("split.count"))

    @property
    def split_number(self) -> int:
        """The number of this one among them, from 0 on."""
        return self._whole("split.no")

    @property
    def split_tensors(self) -> int:
        """The number of tensors of all of them; 0 where it is not told."""
        return self._whole("split.tensors.count")

    def _whole(self, key: str) -> int:
        value = self.values.get(key, 0)
        return value if isinstance(value, int) else 0


def read_header(path: str, name: str | None = None) -> Header:
    """The header of a whole file. Raises GgufError, also where the file ends before it should, and OSError.

    ``name``: what errors call it, where that is not its path.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe is no file to wait for
    try:
        size = os.fstat(descriptor).st_size
        return parse_header(lambda offset, length: os.pread(descriptor, length, offset), size, name or path)
    finally:
        os.close(descriptor)


def parse_header(read: Read, size_bytes: int, name: str) -> Header:
    """The header of what ``read`` gives.

    Args:
        size_bytes: of the whole file, whose end need not be read.
        name: the file's, for errors.

    Raises GgufError, and whatever ``read`` raises.
    """
    cursor = _Cursor(read, size_bytes, name)
    tensor_count, value_count = _counts(cursor)
    values = _values(cursor, value_count)
    alignment = values.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise cursor.damaged(f"general.alignment is {alignment}, not a power of two")
    tensors = tuple(_tensors(cursor, tensor_count))
    data_start = cursor.offset + -cursor.offset % alignment if tensors else cursor.offset
    _check_places(cursor, tensors, alignment)
    header = Header(name, size_bytes, values, tensors, data_start)
    if size_bytes < header.end_bytes:
        raise TruncatedError(
            f"{name} is truncated: header says {header.end_bytes} bytes, file has {size_bytes}; "
            "copy or download it again"
        )
    return header


# ---- Models in several files


def file_count(path: str) -> int:
    """Into how many files the model was split whose first file has this name."""
    named = FIRST_OF_SEVERAL.fullmatch(path)
    return max(1, int(named[2])) if named else 1


def part_paths(path: str, count: int) -> list[str]:
    """The paths of a model's files, where it was split into so many, by the path of the first.

    Raises GgufError where that is not named as llama.cpp wants it.
    """
    if count == 1:
        return [path]
    named = FIRST_OF_SEVERAL.fullmatch(path)
    if count > MAX_FILES or named is None or int(named[2]) != count:
        wanted = f"-00001-of-{count:05}.gguf"
        raise GgufError(
            f"{path} is one of {count} files of a model; name the first, whose name must end with {wanted} for "
            "llama.cpp to find the others"
        )
    return [f"{named[1]}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def read_model(path: str, header_of: Callable[[str], Header] = read_header) -> tuple[Header, ...]:
    """The headers of all files of a model, by the path of the first. Raises GgufError and OSError.

    A model that was split is whole when each file is there, says which one it is, and none lacks tensors.

    Args:
        header_of: reads the header of a path, or of an address that is given in its place; its errors are let through,
            but for FileNotFoundError.
    """
    first = header_of(path)
    headers = []
    for number, part in enumerate(part_paths(path, first.split_count)):
        try:
            header = first if number == 0 else header_of(part)
        except FileNotFoundError as error:
            raise GgufError(
                f"{part} is not there: of the model's {first.split_count} files this one is missing; put it beside the "
                "others"
            ) from error
        if (header.split_number, header.split_count) != (number, first.split_count):
            raise GgufError(
                f"{part} says that it is file {header.split_number + 1} of {header.split_count}, not {number + 1} of "
                f"{first.split_count}; give each file the name that it was made with"
            )
        headers.append(header)
    found = sum(len(header.tensors) for header in headers)
    if first.split_count > 1 and found != (first.split_tensors or found):
        raise GgufError(
            f"{path} has {found} tensors in its {first.split_count} files, {first.split_tensors} make up the model; "
            "copy or download all of its files again"
        )
    return tuple(headers)


# ---- Parts of a header


class _Cursor:
    """Goes through a header once, and skips without reading what nobody asks for."""

    def __init__(self, read: Read, size_bytes: int, name: str) -> None:
        self.name = name
        self._read, self.size = read, size_bytes
        self._limit = min(size_bytes, MAX_HEADER_BYTES)
        self._window, self._start, self._at = b"", 0, 0  # what was read last, where it begins, and where we are in it

    @property
    def offset(self) -> int:
        return self._start + self._at

    def damaged(self, what: str) -> GgufError:
        return GgufError(
            f"{self.name} is damaged: {what} (byte {self.offset} of its header); copy or download it again, or take "
            "another conversion of the model"
        )

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._window):
            self._fill(count)
        piece = self._window[self._at : self._at + count]
        self._at += count
        return piece

    def number(self, form: struct.Struct) -> int:
        return int(form.unpack(self.take(form.size))[0])

    def skip(self, count: int) -> None:
        self._at += count
        if self.offset > self._limit:
            raise self._too_long()

    def skip_strings(self, count: int) -> None:
        """Pass over texts, each behind its length: the hundred thousands of a vocabulary."""
        length_at = U64.unpack_from
        while count:
            window, at = self._window, self._at
            last = len(window) - U64.size
            while count and at <= last:
                at += U64.size + length_at(window, at)[0]
                count -= 1
            self._at = at
            if count:
                self._fill(U64.size)
        self.skip(0)

    def _fill(self, count: int) -> None:
        offset = self.offset
        if offset + count > self._limit:
            raise self._too_long()
        window = self._read(offset, min(max(count, CHUNK_BYTES), self._limit - offset))
        if len(window) < count:
            self._limit = self.size = offset + len(window)
            raise self._too_long()
        self._window, self._start, self._at = window, offset, 0

    def _too_long(self) -> GgufError:
        if self._limit < self.size:
            return self.damaged(f"its header has more than {MAX_HEADER_BYTES >> 20} MiB")
        return TruncatedError(
            f"{self.name} is truncated: its header goes beyond the file's {self.size} bytes; copy or download it again"
        )


def _counts(cursor: _Cursor) -> tuple[int, int]:
    """The numbers of tensors and of values, when it is a header at all."""
    magic = cursor.take(min(len(MAGIC), cursor.size))  # a shorter file has none, and is not truncated
    if magic != MAGIC:
        raise GgufError(
            f"{cursor.name} is not a GGUF file: it begins with {magic!r}, not with {MAGIC!r}; name a file in GGUF "
            "format"
        )
    version = cursor.number(U32)
    if version not in VERSIONS:
        turned = version and version & 0xFFFF == 0
        raise GgufError(
            f"{cursor.name} "
            + ("is a big-endian file" if turned else f"has GGUF version {version}")
            + ", llama.cpp reads versions 2 and 3, little-endian; take another conversion of the model"
        )
    tensors, values = cursor.number(U64), cursor.number(U64)
    for count, what, limit in ((tensors, "tensors", MAX_TENSORS), (values, "values", MAX_KEYS)):
        if count > limit:
            raise cursor.damaged(f"it claims to have {count} {what}, more than {limit}")
    return tensors, values


def _values(cursor: _Cursor, count: int) -> dict[str, Value]:
    """The metadata that is kept."""
    values: dict[str, Value] = {}
    seen: set[str] = set()
    strings = MAX_STRINGS  # that may still be walked over in arrays, however many of those there are
    for _ in range(count):
        key = _text(cursor, "a key", MAX_KEY)
        if not key or key in seen:
            raise cursor.damaged(f"the key {_shown(key)} stands there twice" if key else "a key is empty")
        seen.add(key)
        kind = cursor.number(U32)
        if kind != KINDS.get(key, kind):
            raise cursor.damaged(f"{key} is of type {kind}, not {KINDS[key]}")
        if kind == ARRAY:
            kind, length = cursor.number(U32), cursor.number(U64)
            if kind == STRING:
                strings -= length
                if strings < 0:
                    raise cursor.damaged(f"{_shown(key)} has {length} texts, more than {MAX_STRINGS}")
                cursor.skip_strings(length)
            elif kind not in SCALARS:
                raise cursor.damaged(f"{_shown(key)} is an array of type {kind}")
            elif length > KEPT_ELEMENTS:
                cursor.skip(struct.calcsize(SCALARS[kind]) * length)
            else:
                form = struct.Struct(f"<{length}{SCALARS[kind]}")
                values[key] = form.unpack(cursor.take(form.size))
        elif kind == STRING:
            length = cursor.number(U64)
            if length > KEPT_STRING_BYTES:
                cursor.skip(length)
            else:
                values[key] = cursor.take(length).decode(errors="replace")
        elif kind in SCALARS:
            form = struct.Struct("<" + SCALARS[kind])
            (values[key],) = form.unpack(cursor.take(form.size))
        else:
            raise cursor.damaged(f"{_shown(key)} is of type {kind}")
    return values


def _tensors(cursor: _Cursor, count: int) -> list[Tensor]:
    """The table of tensors."""
    tensors: dict[str, Tensor] = {}
    for _ in range(count):
        name = _text(cursor, "the name of a tensor", MAX_TENSOR_NAME)
        dimensions = cursor.number(U32)
        if dimensions > MAX_DIMENSIONS:
            raise cursor.damaged(f"tensor {_shown(name)} has {dimensions} dimensions, more than {MAX_DIMENSIONS}")
        shape = tuple(cursor.number(U64) for _ in range(dimensions)) or (1,)  # as llama.cpp fills up what is not there
        kind, offset = cursor.number(U32), cursor.number(U64)
        per_block = TENSOR_TYPES[kind].per_block if kind in TENSOR_TYPES else 1
        if kind > MAX_TYPE:
            raise cursor.damaged(f"tensor {_shown(name)} has data of type {kind}")
        if max(shape) >= MAX_ELEMENTS or _product(shape) >= MAX_ELEMENTS:
            raise cursor.damaged(f"tensor {_shown(name)} has the shape {shape}, too large to be true")
        if shape[0] % per_block:
            raise cursor.damaged(
                f"tensor {_shown(name)} has rows of {shape[0]} elements, its type blocks of {per_block}"
            )
        if name in tensors:
            raise cursor.damaged(f"tensor {_shown(name)} stands there twice")
        tensors[name] = Tensor(name, shape, kind, offset)
    return list(tensors.values())


def _check_places(cursor: _Cursor, tensors: tuple[Tensor, ...], alignment: int) -> None:
    """Refuse tensors that don't lie one behind the other, as llama.cpp does.

    Where one of a newer type ends is not known, so the next may lie anywhere behind its start.
    """
    expected, exact = 0, True
    for tensor in tensors:
        offset = tensor.offset
        if offset % alignment or offset < expected or (exact and offset > expected):
            raise cursor.damaged(f"tensor {_shown(tensor.name)} lies at {offset}, not at {expected} where it should")
        exact = tensor.type in TENSOR_TYPES
        end = offset + tensor.size_bytes
        expected = end + -end % alignment


def _text(cursor: _Cursor, what: str, limit: int) -> str:
    length = cursor.number(U64)
    if length > limit:
        raise cursor.damaged(f"{what} has {length} bytes, more than {limit}")
    return cursor.take(length).decode(errors="replace")


def _shown(name: str) -> str:
    """A name from a header as a line can hold it."""
    return repr(name if len(name) <= SHOWN else name[:SHOWN] + "…")


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product
