"""Sources: the input files of batches, in whichever format.

    source = sources.find(Path("prompts.jsonl"))        # format by the ending, checked by the content
    for line, fields in source.rows():
        fields()

A file is read at least twice, once to count and check it and once to ask, so it must be a file and no pipe.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import msgspec

from nexus_tasks.batches.formats import TEXT, RawRow, Reader, csv_table, json_array, lines, parquet_table
from nexus_tasks.batches.items import CannotAsk
from nexus_tasks.core.errors import UsageError

READERS: dict[str, Reader] = {
    "txt": lines.txt,
    "csv": csv_table.rows,
    "json": json_array.rows,
    "jsonl": lines.jsonl,
    "parquet": parquet_table.rows,
    "openai": lines.jsonl,
}
"""Formats by name; ``openai`` is JSONL whose rows are those of OpenAI's Batch API."""
FORMATS = tuple(READERS)
ENDINGS = {
    ".txt": "txt", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
OPENAI_KEYS = {"custom_id", "method", "url", "body"}
_COLUMNS = {"csv": csv_table.columns, "parquet": parquet_table.columns}
_MARKS = {  # that of UTF-32 begins as that of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip
_ZEROS = {(2, 3): "UTF-32LE", (0, 1): "UTF-32BE", (1, 3): "UTF-16LE", (0, 2): "UTF-16BE"}
"""Which of four bytes are zeros where letters are Latin, and of UTF-32 nearly always."""
_PARQUET = b"PAR1"
_HEAD_BYTES = 1 << 16
_FIRST_ROWS = 100  # are looked at for one that is whole


class Source(msgspec.Struct, frozen=True):
    """An input file and its format, one of :data:`FORMATS`."""

    path: str
    format: str

    @property
    def file(self) -> Path:
        """The path, to open it by."""
        return Path(self.path)

    def rows(self) -> Iterator[RawRow]:
        """The rows, from the first on.

        Raises:
            UsageError: the file can't be read, or rows can't be told apart from some place on.
        """
        with reading(self.file):
            yield from READERS[self.format](self.file)

    def columns(self) -> tuple[str, ...] | None:
        """The columns that all rows have; None where each row has its own.

        Raises:
            UsageError: the file can't be read, or names no columns.
        """
        if self.format == "txt":
            return (TEXT,)
        with reading(self.file):
            return _COLUMNS[self.format](self.file) if self.format in _COLUMNS else None


def find(path: Path, format: str | None = None) -> Source:  # noqa: A002 - as the option is called
    """The source that a file is.

    Args:
        path: of the file.
        format: one of :data:`FORMATS`; None goes by the file's ending, and by its first row where that is JSONL.

    Raises:
        UsageError: it is no file, empty, of an unknown format, or not of the format that is said.
    """
    head = _head(path)
    named = format or ENDINGS.get(path.suffix.lower())
    if named is None:
        endings = ", ".join(ENDINGS)
        raise UsageError(f"{path} ends in none of {endings}", hint=f"say --format {'|'.join(FORMATS)}")
    if named not in READERS:
        raise UsageError(f"there is no format {named}", hint=f"use one of {', '.join(FORMATS)}")
    _check_text(path, named, head)
    _check_json(path, named, head)
    if format is None and named == "jsonl" and _is_openai(path):
        named = "openai"
    return Source(str(path), named)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Have errors of the system's be the user's, for as long as a file is read.

    Raises:
        UsageError: with the reason for which the file can't be read.
    """
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)  # Arrow's own words repeat the path
        raise UsageError(f"{path} can't be read: {why}", hint="check the path") from error


def _head(path: Path) -> bytes:
    with reading(path):
        if not path.is_file():
            path.stat()
            raise UsageError(f"{path} is not a file", hint="name a file; what comes through a pipe can't be read twice")
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    if not head.removeprefix(codecs.BOM_UTF8).strip():
        raise UsageError(f"{path} is empty", hint="put at least one row in, or choose another file")
    return head


def _check_text(path: Path, named: str, head: bytes) -> None:
    """Refuse text that is none, or in another encoding than UTF-8; single bytes of others are their rows' matter."""
    parquet = head.startswith(_PARQUET)
    if parquet != (named == "parquet"):
        what, say = ("Parquet", "parquet") if parquet else ("not Parquet", "|".join(FORMATS))
        raise UsageError(f"{path} is {what}", hint=f"say --format {say}")
    if parquet:
        return
    quoted = shlex.quote(str(path))
    if not head.strip(b"\0"):
        raise UsageError(f"{path} has nothing but zero bytes", hint="write it anew, or choose another file")
    encoding = _encoding(head)
    if encoding is not None:
        raise UsageError(f"{path} is {encoding}", hint=f"save it as UTF-8: iconv -f {encoding} -t UTF-8 {quoted} > NEW")
    if READERS[named] in (lines.txt, lines.jsonl) and b"\n" not in head and b"\r" in head.rstrip(b"\r"):
        raise UsageError(
            f"{path} ends its lines with CR alone", hint=f"give it line feeds: tr '\\r' '\\n' < {quoted} > NEW"
        )


def _encoding(head: bytes) -> str | None:
    """The encoding of a text, as iconv calls it, where that is neither UTF-8 nor one of single bytes."""
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    quarter = max(1, len(head) // 4)
    zeros = [head[place::4].count(0) > quarter // 2 for place in range(4)]
    for (one, other), name in _ZEROS.items():
        if zeros[one] and zeros[other]:
            return name
    # Of other letters only line ends have zeros; what is UTF-8 is taken for that, whatever zeros it has.
    ends = head.count(b"\n")
    for found, name in ((head.count(b"\n\0"), "UTF-16LE"), (head.count(b"\0\n"), "UTF-16BE")):
        if ends and found > ends // 2 and not _is_utf8(head):
            return name
    return None


def _is_utf8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # which may end within a letter
    except UnicodeDecodeError:
        return False
    return True


def _check_json(path: Path, named: str, head: bytes) -> None:
    """Refuse JSON of the other form than is said: it is damaged in every line, or in its second."""
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    first, line_end, rest = text.partition(b"\n")
    if named in ("jsonl", "openai"):
        if text.startswith(b"[") and (not line_end or not _is_json(first)):
            raise UsageError(f"{path} is a JSON array, and no JSONL", hint="name it .json, or say --format json")
        if first.strip() == b"{":
            hint = f"write each row in one line: jq -c . {shlex.quote(str(path))} > NEW"
            raise UsageError(f"{path} has rows that go over several lines, and is no JSONL", hint=hint)
    if named == "json" and text.startswith(b"{") and rest.lstrip().startswith(b"{") and _is_json(first):
        raise UsageError(f"{path} has a JSON object in each line", hint="name it .jsonl, or say --format jsonl")


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True


def _is_openai(path: Path) -> bool:
    """True where the first row that is an object is one of OpenAI's Batch API."""
    for number, (_line, fields) in enumerate(lines.jsonl(path)):
        try:
            return set(fields()) >= OPENAI_KEYS
        except CannotAsk:
            if number == _FIRST_ROWS:
                break
    return False
