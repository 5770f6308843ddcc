"""Rows of a JSON file: an array of objects or texts, or an object with such an array as its ``items``.

    for line, fields in json_array.rows(Path("prompts.json")):
        fields()

A row's line is its number, from 1: many such files are one line. The array is taken apart by its quotes and brackets,
and each element is decoded by itself: the file may have any size, and an element that is damaged inside (a number that
is none, half a surrogate pair) is set aside alone. Where a quote or bracket is never closed, the file is refused.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from nexus_tasks.batches.formats import MAX_ROW_BYTES, RawRow
from nexus_tasks.batches.formats.lines import fields_of
from nexus_tasks.core.errors import UsageError

_KEY = b'"items"'
_PART_BYTES = 1 << 20
# A text, or a character that JSON is built with; a quote alone opens a text that goes on in the next part of the file.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},:]', re.DOTALL)


def rows(path: Path) -> Iterator[RawRow]:
    """Rows of a JSON file.

    Raises:
        UsageError: it is no array and has none as its ``items``, or it ends within.
    """
    with path.open("rb") as stream:
        if stream.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            stream.seek(0)
        for number, element in enumerate(_Array(path, stream).elements(), start=1):
            yield number, partial(fields_of, element)


class _Array:
    """The array in a file, read in parts; held is what is not yet told apart, and ``_at`` the place in it."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path, self._stream = path, stream
        self._held, self._begin, self._at = b"", 0, 0
        self._rows = 0
        self._is_open = False  # whether there was a bracket at all
        self._key = self._text = b""

    def elements(self) -> Iterator[bytes]:
        """The elements, each as it stands in the file."""
        depth = inside = self._opened()
        while depth >= inside:
            token = self._next()
            if token in (b"[", b"{"):
                depth += 1
            elif token in (b"]", b"}"):
                depth -= 1
            if depth < inside or (depth == inside and token == b","):
                element = self._held[self._begin : self._at - 1].strip()
                self._begin = self._at
                if element or depth == inside:
                    self._rows += 1
                    yield element
        self._end(depth)

    def _opened(self) -> int:
        """Go to the array's first element; the number of brackets that are open there."""
        depth = 0
        while True:
            token = self._next()
            self._begin = self._at
            if token[:1] == b'"':
                self._text = token
            elif token == b":" and depth == 1:
                self._key = self._text
            elif token == b"," and depth == 1:
                self._key = b""
            elif token in (b"[", b"{"):
                depth += 1
                self._is_open = True
                if token == b"[" and (depth == 1 or (depth == 2 and self._key == _KEY)):
                    return depth
            elif token in (b"]", b"}"):
                depth -= 1
            if depth == 0:
                raise self._no_array()

    def _next(self) -> bytes:
        """The next token, behind which the place is then."""
        while True:
            token = _TOKEN.search(self._held, self._at)
            if token and token[0] != b'"':
                self._at = token.end()
                return token[0]
            self._read_on(token.start() if token else len(self._held))

    def _read_on(self, at: int) -> None:
        # Parts grow with a long text, whose end is looked for from its begin each time.
        part = self._stream.read(max(_PART_BYTES, len(self._held) - self._begin))
        after = f"{self._path} after row {self._rows}"
        if not part and not self._is_open:
            raise self._no_array()
        if not part:
            raise UsageError(f"{after}: a quote or bracket is never closed", hint="is the file cut? write it anew")
        if len(self._held) - self._begin > MAX_ROW_BYTES:
            raise UsageError(
                f"{after}: the next has more than {MAX_ROW_BYTES >> 20} MiB", hint="is a quote or bracket not closed?"
            )
        self._held, self._at, self._begin = self._held[self._begin :] + part, at - self._begin, 0

    def _no_array(self) -> UsageError:
        return UsageError(
            f"{self._path} is neither an array of rows nor an object with such an array as its items",
            hint="write [ROW, ROW] or one row a line, and name that .jsonl",
        )

    def _end(self, depth: int) -> None:
        """Refuse rows behind the array; of an object, what it has beside its items is nobody's matter."""
        rest = self._held[self._at :]
        while depth == 0 and not rest.strip() and (rest := self._stream.read(_PART_BYTES)):
            pass
        if depth == 0 and rest.strip():
            raise UsageError(f"{self._path} goes on behind its array", hint="make one array of all rows, or JSONL")
