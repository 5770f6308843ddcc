"""A connection of the sender process: what goes out, and where an answer ends. No socket is needed."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, cast

import pytest

from nexus_tasks.load.sender import connection
from nexus_tasks.load.sender.connection import Connection, Failure, Transfer
from nexus_tasks.load.sender.pool import Pool
from nexus_tasks.load.sender.protocol import Ask, Config

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CONFIG = Config([], 80, None, "host", "/base", b"Host: host\r\n", 1, 1.0, 1.0, None)


class Line:
    """A transport that keeps what a connection writes."""

    def __init__(self) -> None:
        self.written = b""
        self.aborted = False

    def abort(self) -> None:
        """Note it."""
        self.aborted = True

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
    assert connection.answer.keeps_connection


def test_an_end_in_the_piece_of_the_last_token_is_seen() -> None:
    connection, _, ends = sending()
    receive(connection, HEAD + b"5\r\nhello\r\n0\r\n\r\n")
    assert ends.seen == [None]


def test_a_text_that_looks_like_the_end_is_none() -> None:
    connection, _, ends = sending()
    receive(connection, HEAD, b"5\r\n0\r\n\r\n\r\n", b"4\r\n10\r\n\r\n", b"3\r\na\n\n\r\n")
    assert ends.seen == []


def test_an_answer_with_a_length_ends_with_its_last_byte() -> None:
    connection, _, ends = sending()
    receive(connection, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nConn", b"ection: close\r\n\r\nhel")
    assert ends.seen == []
    receive(connection, b"lo")
    assert ends.seen == [None]
    assert not connection.answer.keeps_connection


TRAILERS = [
    [b"0\r\nServer-Timing: total;dur=1\r\n\r\n"],
    [b"0\r\n", b"Server-Timing: total;dur=1\r\n", b"\r\n"],
    [b"000;last=yes\r\nX-One: 1\r\nX-Two: 2\r", b"\n\r\n"],
]


@pytest.mark.parametrize("end", TRAILERS)
def test_an_answer_with_trailers_has_ended_with_the_piece_that_ends_them(end: list[bytes]) -> None:
    connection, _, ends = sending()
    receive(connection, HEAD, b"5;a=b\r\nhello\r\n", *end[:-1])
    assert ends.seen == []
    receive(connection, end[-1])
    assert ends.seen == [None]
    assert connection.answer.keeps_connection


def test_an_end_is_seen_with_its_last_byte_wherever_the_pieces_are_cut() -> None:
    raw = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + HEAD + b"5\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n"
    for at in range(1, len(raw)):
        connection, _, ends = sending()
        receive(connection, raw[:at])
        assert ends.seen == [], at
        receive(connection, raw[at:])
        assert ends.seen == [None], at


def test_a_connection_serves_one_answer_after_another() -> None:
    connection, _, ends = sending()
    for status in (b"200 OK", b"503 Busy"):
        receive(connection, b"HTTP/1.1 %s\r\nRetry-After: 2\r\nContent-Length: 2\r\n\r\n{}" % status)
        assert connection.answer.keeps_connection
        assert connection.retry_after_s == (2.0 if b"503" in status else 0.0)
        connection.send(Transfer(Ask(2, "/completion", b"{}"), 0.0))
        assert connection.retry_after_s == 0.0
    assert ends.seen == [None, None]


def test_what_follows_an_answer_ends_the_connection() -> None:
    connection, line, ends = sending()
    receive(connection, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n\r\n")
    assert ends.seen == [None]
    assert not connection.answer.keeps_connection
    receive(connection, b"more that nobody asked for")
    assert line.aborted


@pytest.mark.parametrize("value", [b"nan", b"-1", b"inf", b"1e999", b"soon", b"Wed, 21 Oct 2026 07:28:00 GMT"])
def test_a_pause_that_is_none_is_not_waited_for(value: bytes) -> None:
    connection, _, _ = sending()
    receive(connection, b"HTTP/1.1 503 Busy\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n" % value)
    assert connection.retry_after_s == 0.0


@pytest.mark.parametrize(
    ("head", "limit"),
    [
        (b"HTTP/1.1 500 Oh\r\n\r\n", connection.MAX_ERROR_BYTES),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 99999999999\r\n\r\n", connection.MAX_ERROR_BYTES),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", connection.MAX_DOCUMENT_BYTES),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", connection.MAX_STREAM_BYTES),
    ],
)
def test_an_answer_without_an_end_is_given_up(head: bytes, limit: int) -> None:
    connection, line, ends = sending()
    receive(connection, head)
    piece = b": %b\n\n" % bytes(1 << 20)
    for _ in range(limit // len(piece)):
        receive(connection, piece)
        assert ends.seen == []
        connection.cut(len(connection.parts))
    receive(connection, piece)
    assert [failure.message for failure in ends.seen if failure] == [
        f"the answer is larger than {limit >> 20} MiB, and goes on"
    ]
    assert line.aborted


def test_a_head_without_an_end_is_given_up() -> None:
    connection, _, ends = sending()
    for _ in range(1 << 5):
        receive(connection, b"HTTP/1.1 102 Processing\r\n\r\n" * (1 << 11))
    assert [failure.kind for failure in ends.seen if failure] == ["protocol"]


def test_what_was_handed_on_without_news_is_silence() -> None:
    connection, _, _ = sending()
    receive(connection, HEAD)
    begun = connection.silent_since()
    for _ in range(3):
        receive(connection, b"8\r\n: ping\n\n\r\n")
    connection.cut(3)
    assert connection.silent_since() == begun
    receive(connection, b"a\r\ndata: {}\n\n\r\n")
    assert connection.silent_since() > begun


def message(delta: dict[str, Any], **more: Any) -> bytes:
    """An event of a chat."""
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return b"data: %b\n\n" % json.dumps({"choices": [choice], "model": "tiny", **more}).encode()


@pytest.mark.parametrize(
    ("piece", "brings_nothing"),
    [
        (b": ping\n\n", True),
        (b"8\r\n: ping\n\n\r\n", True),
        (b"8;a=b\r\n: ping\n\n\r\n8\r\n: ping\n\n\r\n", True),
        (b":\r\n\r\n", True),
        (b"data:\n\n", True),
        (b"data: \r\r", True),
        (b"7\r\ndata:\n\n\r\n", True),
        (b"event: ping\ndata:\nid: 7\nretry: 5\n\n", True),
        (b"data: {}\n\n", False),
        (b"a\r\ndata: {}\n\n\r\n", False),
        (b"event: ping\ndata: {}\n\n", False),
        (b'"content": "half an event', False),
        (message({"role": "assistant", "content": None}), True),
        (message({"content": ""}), True),
        (message({"content": "", "tool_calls": None}), True),
        (message({}), True),
        (b"%x\r\n%b\r\n" % (len(message({})), message({})), True),
        (message({"content": " "}), False),
        (message({"content": '"delta": {}'}), False),
        (message({"content": "", "reasoning_content": "so"}), False),
        (message({"content": None, "tool_calls": [{"index": 0}]}), False),
        (message({"role": "assistant", "content": None}, prompt_progress={"processed": 5}), False),
        (b'data: {"choices":[{"index":0,"text":"","finish_reason":null}]}\n\n', True),
        (b'data: {"choices":[{"index":0,"text":"a","finish_reason":null}]}\n\n', False),
        (b'data: {"choices":[],"usage":{"prompt_tokens":5}}\n\n', False),
    ],
)
def test_what_keeps_a_connection_alive_is_told_from_news(piece: bytes, brings_nothing: bool) -> None:
    assert connection.is_keep_alive(piece) is brings_nothing


def test_many_comments_before_news_are_read_at_once() -> None:
    piece = b"8\r\n: ping\n\n\r\n" * 1000
    began = time.process_time()
    assert connection.is_keep_alive(piece)
    assert not connection.is_keep_alive(piece + b"data: {}\n\n")
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("event", "is_last"),
    [
        (b"data: [DONE]\n\n", True),
        (b"data:[DONE]\r\n\r\n", True),
        (b'data: {"content":"","stop":true,"stop_type":"limit"}\n\n', True),
        (b'data: {"error":{"message":"gone"}}\n\n', True),
        (b"event: error\ndata: gone\n\n", True),
        (b'data: {"content":"\\"stop\\":true","stop":false}\n\n', False),
        (b'data: {"error":null,"choices":[]}\n\n', False),
        (b'data: {"choices":[{"delta":{"content":"data: [DONE]"}}]}\n\n', False),
        (b"data: [DONE", False),
    ],
)
def test_who_has_said_the_last_words_and_is_silent_has_ended(
    event: bytes, is_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    one, _, ends = sending()
    receive(one, head, b"%x\r\n%s\r\n" % (len(event), event))
    one.check_end()
    one.check_end()
    assert ends.seen == []  # the rest of it may be on its way
    monkeypatch.setattr(connection, "_LAST_WORDS_S", -1.0)
    one.check_end()
    assert ends.seen == ([None] if is_last else [])
    assert not one.answer.keeps_connection
