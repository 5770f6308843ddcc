"""Events are found in whatever pieces they come."""

from __future__ import annotations

from nexus_tasks.load.event_stream import Chunk, Event, events

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
