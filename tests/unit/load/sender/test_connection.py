"""A connection of the sender process: what goes out, and where an answer ends. No socket is needed."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from nexus_tasks.load.sender import connection
from nexus_tasks.load.sender.connection import Connection, Failure, Transfer
from nexus_tasks.load.sender.pool import Pool
from nexus_tasks.load.sender.protocol import Ask, Config

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CONFIG = Config([], 80, False, "host", "/base", b"Host: host\r\n", 1, 1.0, 1.0, None)


class Line:
    """A transport that keeps what a connection writes."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.written += data


class Ends:
    """A pool that notes the ends of answers."""

    def __init__(self) -> None:
        self.config = CONFIG
        self.seen: list[Failure | None] = []

    def ended(self, connection: Connection, transfer: Transfer, failure: Failure | None) -> None:
        """Note it."""
        self.seen.append(failure)


def sending(path: str = "/completion") -> tuple[Connection, Line, Ends]:
    line, ends = Line(), Ends()
    connection = Connection(cast("Pool", ends))
    connection.connection_made(cast("asyncio.BaseTransport", line))
    connection.send(Transfer(Ask(1, path, b"{}"), 0.0))
    return connection, line, ends


def receive(connection: Any, *pieces: bytes) -> None:
    for piece in pieces:
        connection.data_received(piece)


def test_a_request_goes_out_whole() -> None:
    _, line, _ = sending()
    assert line.written == b"POST /base/completion HTTP/1.1\r\nHost: host\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize("end", [[b"0\r\n\r\n"], [b"0\r\n", b"\r\n"], [b"0", b"\r\n\r\n"], [b"0\r\n\r", b"\n"]])
def test_an_answer_has_ended_with_the_piece_that_ends_it(end: list[bytes]) -> None:
    connection, _, ends = sending()
    receive(connection, HEAD, b"5\r\nhello\r\n", *end[:-1])
    assert ends.seen == []
    receive(connection, end[-1])
    assert ends.seen == [None]
    assert connection.keeps_alive


def test_an_end_in_the_piece_of_the_last_token_is_seen() -> None:
    connection, _, ends = sending()
    receive(connection, HEAD + b"5\r\nhello\r\n0\r\n\r\n")
    assert ends.seen == [None]


def test_a_text_that_looks_like_the_end_is_none() -> None:
    connection, _, ends = sending()
    receive(connection, HEAD, b"6\r\ndata 0\r\n\r\n", b"4\r\n10\r\n\r\n", b"3\r\na\n\n\r\n")
    assert ends.seen == []


def test_an_answer_with_a_length_ends_with_its_last_byte() -> None:
    connection, _, ends = sending()
    receive(connection, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nConn", b"ection: close\r\n\r\nhel")
    assert ends.seen == []
    receive(connection, b"lo")
    assert ends.seen == [None]
    assert not connection.keeps_alive


@pytest.mark.parametrize(
    ("piece", "is_comment"),
    [
        (b": ping\n\n", True),
        (b"8\r\n: ping\n\n\r\n", True),
        (b":\r\n\r\n", True),
        (b"data: {}\n\n", False),
        (b"a\r\ndata: {}\n\n\r\n", False),
        (b'"content": "half an event', False),
    ],
)
def test_a_comment_is_told_from_news(piece: bytes, is_comment: bool) -> None:
    assert connection.is_comment(piece) is is_comment
