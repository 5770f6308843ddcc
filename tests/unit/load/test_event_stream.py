"""Events are found in whatever pieces they come."""

from __future__ import annotations

import itertools
import random

import pytest

from nexus_tasks.load import event_stream
from nexus_tasks.load.event_stream import Chunk, Event, EventTooLongError, events

MESSY = (
    ": keep-alive\r\n\r\n"
    "data: one\n\n"
    "event: message\r\nid: 7\r\ndata: two\r\ndata:  lines 🦙\r\n\r\n"
    ":\n\n"
    "data:three\r\rdata\n\n"
    "retry: 5\n\n"
    "data: [DONE]\n\n"
    "data: cut off"
).encode()
MESSY_DATA = ["one", "two\n lines 🦙", "three", "", "[DONE]"]


def data(chunks: list[Chunk]) -> list[str]:
    return [event.data for event in events(chunks)]


def test_events_are_found_among_comments_other_fields_and_all_line_ends() -> None:
    assert data([(0.0, MESSY)]) == MESSY_DATA


def test_events_are_the_same_wherever_the_network_splits_them() -> None:
    for at in range(len(MESSY)):
        assert data([(0.0, MESSY[:at]), (1.0, MESSY[at:])]) == MESSY_DATA, at


def test_events_are_the_same_when_every_byte_comes_alone() -> None:
    assert data([(0.0, MESSY[at : at + 1]) for at in range(len(MESSY))]) == MESSY_DATA


def test_an_event_has_the_time_of_the_chunk_that_completed_it() -> None:
    chunks = [(1.0, b"data: a"), (2.0, b"b\n"), (3.0, b"\ndata: c\n\ndata: d\n\n")]
    assert list(events(chunks)) == [Event(3.0, "ab"), Event(3.0, "c"), Event(3.0, "d")]


def test_bytes_that_are_no_utf8_don_t_end_the_stream() -> None:
    assert data([(0.0, b"data: \xff\n\ndata: b\n\n")]) == ["\ufffd", "b"]


def by_the_standard(raw: bytes) -> list[tuple[str, str]]:
    """Type and data of the events, by the algorithm of the HTML standard (9.2.6), letter by letter."""
    text = raw.decode("utf-8", errors="replace").removeprefix("\ufeff")
    lines, line, at = [], "", 0
    while at < len(text):
        if text[at] in "\r\n":
            lines.append(line)
            line = ""
            at += text[at : at + 2] == "\r\n"
        else:
            line += text[at]
        at += 1
    found, data, kind = [], "", ""
    for line in lines:
        if not line:
            if data:
                found.append((kind, data.removesuffix("\n")))
            data = kind = ""
        elif not line.startswith(":"):
            name, colon, value = line.partition(":")
            if colon and value.startswith(" "):
                value = value[1:]
            if name == "event":
                kind = value
            elif name == "data":
                data += value + "\n"
    return found


PARTS = [
    "data", "data:", "data: ", "data:  ", "dat", "datab: ", "event:", "event: ", "event", "id: 1", "retry: 5", ":",
    ": ping", " ", "x", "{}", "🦙", "é", "\ufeff", "\n", "\r", "\r\n", "\n\n", "\r\r", "\r\n\r\n", "data: a\n\n",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(50))
def test_events_are_those_of_the_standard_wherever_the_stream_is_cut(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - forms, not secrets
    for _ in range(60):
        text = "".join(chance.choices(PARTS, k=chance.randrange(1, 40)))
        raw = chance.choice([b"", b"", b"\xef\xbb\xbf"]) + text.encode() + chance.choice([b"", b"\xff\n\n"])
        expected = by_the_standard(raw)
        for places in ([], range(1, len(raw)), sorted(chance.sample(range(len(raw)), min(5, len(raw))))):
            edges = itertools.pairwise([0, *places, len(raw)])
            found = events((0.0, raw[begin:end]) for begin, end in edges)
            assert [(event.type, event.data) for event in found] == expected, raw


@pytest.mark.parametrize("piece", [b"data: no end ", b"data: no end\n", b"no end", b": no end"])
def test_an_event_without_an_end_is_given_up(piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "MAX_EVENT_BYTES", 1000)
    with pytest.raises(EventTooLongError):
        list(events((0.0, piece) for _ in range(1000)))
