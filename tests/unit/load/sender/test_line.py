"""Slices of an answer."""

from __future__ import annotations

from nexus_tasks.load.sender.line import boundary


def test_a_row_of_pieces_is_cut_at_the_end_of_an_event_where_one_is_near() -> None:
    whole, half = b"a\r\ndata: {}\n\n\r\n", b"a\r\ndata:"
    assert boundary([whole] * 10, 4) == 4
    assert boundary([half, half, half, half, half, whole, half], 4) == 6
    assert boundary([half] * 500, 4) == 4
