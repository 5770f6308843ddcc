"""Server-sent events, by the event stream format of the HTML standard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Chunk = tuple[float, bytes]
"""The moment of arrival, and the bytes."""


@dataclass(frozen=True)
class Event:
    """One server-sent event: the moment its last byte arrived, and its data."""

    time: float
    data: str


class Events:
    """Finds the events in a stream of bytes.

    Lines end in LF, CRLF or CR, an event ends at an empty line, ``data`` lines of one event are joined by LF,
    comments and other fields are skipped. An event without its empty line was cut off and never appears.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, arrival: float, chunk: bytes) -> Iterator[Event]:
        """The events that ``chunk`` completes."""
        rest = self._rest + chunk
        held = b""
        if rest.endswith(b"\r"):  # the LF that belongs to it may follow
            rest, held = rest[:-1], b"\r"
        *lines, rest = rest.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = rest + held
        for line in lines:
            if not line:
                if self._data:
                    yield Event(arrival, "\n".join(self._data))
                self._data = []
                continue
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" ").decode("utf-8", errors="replace"))


def events(chunks: Iterable[Chunk]) -> Iterator[Event]:
    """The events in a stream of chunks, each with the arrival of the chunk that completed it."""
    parser = Events()
    for arrival, chunk in chunks:
        yield from parser.feed(arrival, chunk)
