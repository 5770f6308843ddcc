"""Server-sent events, by the event stream format of the HTML standard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

Chunk = tuple[float, bytes]
"""The moment of arrival, and the bytes."""

MAX_EVENT_BYTES = 16 << 20
_BOM = b"\xef\xbb\xbf"


class EventTooLongError(Exception):
    """An event without an end."""


class Event(NamedTuple):
    """One server-sent event: the moment its last byte arrived, its data, and its type where it names one."""

    time: float
    data: str
    type: str = ""


class Events:
    """Finds the events in a stream of bytes.

    A byte order mark may come first. Lines end in LF, CRLF or CR, an event ends at an empty line, ``data`` lines of one
    event are joined by LF, comments and other fields are skipped, and what has no ``data`` line is no event. One
    without its empty line was cut off and never appears.
    """

    def __init__(self) -> None:
        self._begun = False  # whether the place of the byte order mark is behind
        self._held: list[bytes] = []  # a line that has not ended
        self._size = 0  # bytes since the last event
        self._after_return = False  # whether an LF that comes first belongs to the CR before it
        self._data: list[bytes] = []
        self._type = b""

    def feed(self, arrival: float, chunk: bytes) -> Iterator[Event]:
        """The events that ``chunk`` completes.

        Raises:
            EventTooLongError: one has no end within :data:`MAX_EVENT_BYTES`.
        """
        if not self._begun:
            chunk = b"".join([*self._held, chunk])
            self._held = []
            if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
                self._held = [chunk]
                return
            self._begun = True
            chunk = chunk.removeprefix(_BOM)
        if self._after_return and chunk:
            self._after_return = False
            chunk = chunk.removeprefix(b"\n")
        self._size += len(chunk)
        if b"\n" not in chunk and b"\r" not in chunk:
            self._held.append(chunk)
        else:
            self._after_return = chunk.endswith(b"\r")
            whole = b"".join([*self._held, chunk])
            *lines, rest = whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
            self._held = [rest]
            for line in lines:
                if not line:
                    if self._data:
                        yield Event(arrival, _text(b"\n".join(self._data)), _text(self._type))
                    self._data, self._type, self._size = [], b"", 0
                elif line.startswith(b"data"):
                    name, _, value = line.partition(b":")
                    if name == b"data":
                        self._data.append(value.removeprefix(b" "))
                elif line.startswith(b"event:"):
                    self._type = line[len(b"event:") :].removeprefix(b" ")
                elif line == b"event":
                    self._type = b""
        if self._size > MAX_EVENT_BYTES:
            raise EventTooLongError


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def events(chunks: Iterable[Chunk]) -> Iterator[Event]:
    """The events in a stream of chunks, each with the arrival of the chunk that completed it."""
    parser = Events()
    for arrival, chunk in chunks:
        yield from parser.feed(arrival, chunk)
