"""Read a file of prompts or conversations.

    file = prompt_file.read(Path("questions.jsonl"))
    file.entries[0].messages, file.entries[0].turns

| ending | one entry is |
|---|---|
| ``.jsonl``, ``.ndjson`` | an object a line |
| ``.json`` | an object of the list that the file is |
| ``.csv`` | a row below a line of column names: ``prompt``, and ``id`` and ``output_tokens`` where wanted |
| ``.txt`` | a line |

Columns are separated by commas, semicolons or tabs.

An object has one of ``prompt`` (a text), ``messages`` (a list of ``role`` and ``content``, as in the OpenAI API) and
``conversations`` (a list of ``from`` and ``value``, as in ShareGPT's files), and may have ``id`` and
``output_tokens``. Its other keys are left alone: data sets carry many. Entries in which nobody asks anything, such
as empty lines and ShareGPT's empty conversations, are passed over.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from nexus_tasks.core.errors import UsageError
from nexus_tasks.records.benchmark_rows import File

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
"""The roles of a conversation by the names that files have for them."""
DELIMITERS = ",;\t"
_QUOTED = re.compile(rf'(?:^|(?<=[{DELIMITERS}]))"(?:[^"]|"")*(?:"|$)')


@dataclass(frozen=True)
class Message:
    """Message of one side; ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


@dataclass(frozen=True)
class Entry:
    """One prompt or conversation of a file. It ends with a user's message.

    ``place`` is where it stands in the file, in words. ``output_tokens`` is the entry's own wish. ``key`` is its
    ``id``, else its line or place in the file, and no other entry's: where ids are repeated, the second is ``ID#2``.
    """

    place: str
    key: str
    messages: tuple[Message, ...]
    output_tokens: int | None = None

    @property
    def text(self) -> str | None:
        """The prompt, where the entry is nothing but one."""
        return self.messages[0].content if len(self.messages) == 1 else None

    @property
    def turns(self) -> tuple[tuple[Message, ...], ...]:
        """The conversation without its recorded answers: what is new in each turn, a user's message last."""
        turns: list[tuple[Message, ...]] = []
        new: list[Message] = []
        for message in self.messages:
            if message.role == "assistant":
                continue
            new.append(message)
            if message.role == "user":
                turns.append(tuple(new))
                new = []
        return tuple(turns)


@dataclass(frozen=True)
class PromptFile:
    """A file's entries, and what tells it from another. ``repeated`` entries had the id of one before them."""

    path: Path
    sha256: str
    entries: tuple[Entry, ...] = field(repr=False)
    repeated: int = 0

    def as_row(self) -> File:
        """For the header of a record."""
        return File(name=self.path.name, sha256=self.sha256, entries=len(self.entries))


class _Said(msgspec.Struct):
    role: str
    content: str


class _ShareGpt(msgspec.Struct):
    who: str = msgspec.field(name="from")
    value: str


class _Object(msgspec.Struct):
    prompt: str | None = None
    messages: list[_Said] | None = None
    conversations: list[_ShareGpt] | None = None
    id: str | int | None = None
    output_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None


def read(path: Path) -> PromptFile:
    """Read a file of prompts; its ending says of which form it is.

    Raises:
        UsageError: it can't be read, is of another form, or holds no prompt. The message names file and line.
    """
    readers = {".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json_list, ".csv": _csv, ".txt": _txt}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"{path} must end in one of {', '.join(readers)}", hint="the ending says how it is read")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}", hint="check the path") from error
    # What Windows programs put before UTF-8.
    text = data.removeprefix(b"\xef\xbb\xbf")
    try:
        text.decode()
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise _damaged(path, f"line {line}", "it is not UTF-8", hint="save the file as UTF-8") from error
    entries = tuple(reader(path, text))
    if not entries:
        raise UsageError(f"{path} must hold at least one prompt", hint="put at least one in, or choose another file")
    told_apart = _told_apart(entries)
    repeated = sum(entry.key != other.key for entry, other in zip(entries, told_apart, strict=True))
    return PromptFile(path, hashlib.sha256(data).hexdigest(), told_apart, repeated)


def _told_apart(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The entries, each with a key of its own: by them answers are found again."""
    taken = {entry.key for entry in entries}
    counts: dict[str, int] = {}
    found = []
    for entry in entries:
        key, count = entry.key, counts.get(entry.key, 0) + 1
        while count > 1 and (key := f"{entry.key}#{count}") in taken:
            count += 1
        counts[entry.key] = count
        taken.add(key)
        found.append(entry if key == entry.key else dataclasses.replace(entry, key=key))
    return tuple(found)


def _json_lines(path: Path, data: bytes) -> Iterator[Entry]:
    decoder = msgspec.json.Decoder(_Object)
    for number, line in enumerate(data.splitlines(), start=1):  # of bytes: U+2028 in a string ends no line
        if line.strip():
            yield from _entry(path, f"line {number}", number, line, decoder)


def _json_list(path: Path, data: bytes) -> Iterator[Entry]:
    try:
        pieces = msgspec.json.decode(data, type=list[msgspec.Raw])
    except msgspec.ValidationError as error:
        hint = "a .json file is a list of entries, a .jsonl file has one a line"
        raise _damaged(path, "line 1", "it must be a list", hint=hint) from error
    except msgspec.DecodeError as error:
        byte = re.search(r"\(byte (\d+)\)", str(error))
        line = data.count(b"\n", 0, int(byte[1]) if byte else len(data)) + 1
        raise _damaged(path, f"line {line}", str(error), hint="mend the file") from error
    decoder = msgspec.json.Decoder(_Object)
    begin, line = 0, 1
    for number, raw in enumerate(pieces, start=1):
        # The pieces come in the order of the file; between them are commas and white space.
        at = data.index(bytes(raw), begin)
        line += data.count(b"\n", begin, at)
        # Many such files are one line.
        yield from _entry(path, f"line {line}, entry {number}", number, bytes(raw), decoder)
        begin = at


def _entry(path: Path, place: str, number: int, data: bytes, decoder: msgspec.json.Decoder[_Object]) -> Iterator[Entry]:
    try:
        entry = decoder.decode(data)
    except msgspec.DecodeError as error:
        raise _damaged(path, place, str(error)) from error
    pairs_of = {
        "prompt": None if entry.prompt is None else [("user", entry.prompt)],
        "messages": None if entry.messages is None else [(each.role, each.content) for each in entry.messages],
        "conversations": None
        if entry.conversations is None
        else [(each.who, each.value) for each in entry.conversations],
    }
    there = [name for name, pairs in pairs_of.items() if pairs is not None]
    if len(there) != 1:
        what = "has none of" if not there else "has more than one of"
        raise _damaged(path, place, f"the entry {what} {', '.join(pairs_of)}")
    messages = _messages(path, place, pairs_of[there[0]] or [])
    if messages:
        key = str(number if entry.id is None else entry.id)
        yield Entry(place, key, messages, entry.output_tokens)


def _messages(path: Path, place: str, pairs: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """The messages up to the user's last, without answers to nothing; none where no user says anything."""
    messages: list[Message] = []
    for role, content in pairs:
        if role.lower() not in ROLES:
            raise _damaged(
                path, place, f"the role must be one of {', '.join(ROLES)}, not {role!r}", hint="mend the entry"
            )
        message = Message(ROLES[role.lower()], content)
        asked = any(before.role == "user" for before in messages)
        if content.strip() and (asked or message.role != "assistant"):
            messages.append(message)
    while messages and messages[-1].role != "user":
        messages.pop()
    return tuple(messages)


def _csv(path: Path, data: bytes) -> Iterator[Entry]:
    csv.field_size_limit(len(data) + 1)  # long prompts are what a file may be about; the module's limit is 128 KiB
    text = data.decode()
    rows = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter(text.partition("\n")[0]))
    begin = 1
    try:
        columns = [name.strip() for name in next(rows, [])]
        if "prompt" not in columns:
            raise _damaged(path, "line 1", f"no column is named prompt; there are {', '.join(columns) or 'none'}")
        begin = rows.line_num + 1
        for row in rows:
            values = dict(zip(columns, row, strict=False))
            if any(row):
                if len(row) != len(columns):
                    raise _damaged(path, f"line {begin}", f"it has {len(row)} columns instead of {len(columns)}")
                yield from _csv_entry(path, begin, values)
            begin = rows.line_num + 1
    except csv.Error as error:
        raise _damaged(path, f"line {begin}", str(error)) from error


def delimiter(head: str) -> str:
    """The delimiter of a CSV file's columns: the one that its first line has most, outside of names in quotes.

    Spreadsheets write what their language has.
    """
    bare = _QUOTED.sub("", head.lstrip("\ufeff"))
    return max(DELIMITERS, key=bare.count)


def _csv_entry(path: Path, line: int, values: dict[str, str]) -> Iterator[Entry]:
    output = values.get("output_tokens", "").strip()
    if output and not (output.isdecimal() and int(output) > 0):
        raise _damaged(path, f"line {line}", f"output_tokens must be 1 or more, not {output!r}", hint="or leave it out")
    if values["prompt"].strip():
        key = values.get("id", "").strip() or str(line)
        yield Entry(f"line {line}", key, (Message("user", values["prompt"]),), int(output) if output else None)


def _txt(path: Path, data: bytes) -> Iterator[Entry]:
    for number, line in enumerate(data.splitlines(), start=1):
        if line.strip():
            yield Entry(f"line {number}", str(number), (Message("user", line.decode()),))


def _damaged(path: Path, place: str, why: str, *, hint: str = "mend it, or take it out") -> UsageError:
    return UsageError(f"{path}, {place}: {why}", hint=hint)
