from __future__ import annotations

import json
from typing import Any

import pytest

from nexus_tasks.batches.answers import Reader, Reading
from nexus_tasks.batches.entries import Usage
from nexus_tasks.load.sender.connection import Failure
from tests.support.answers import chat, http, sse

USAGE = {
    "choices": [], "model": "tiny", "system_fingerprint": "b1",
    "usage": {"prompt_tokens": 20, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}},
    "timings": {"predicted_n": 4, "predicted_ms": 20.0, "predicted_per_second": 200.0},
}  # fmt: skip


def pieces(*messages: dict[str, Any] | str) -> list[tuple[float, bytes]]:
    """A stream off the wire, a piece a second."""
    return http(sse(*messages, USAGE, "[DONE]"))


def read(chunks: list[tuple[float, bytes]], failure: Failure | None = None, *, stream: bool = True) -> Reading:
    reader = Reader(stream=stream)
    reader.feed([moment for moment, _ in chunks], [piece for _, piece in chunks])
    return reader.finish(failure)


def document(value: object, status: str = "200 OK", *, stream: bool = False, more: str = "") -> Reading:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    return read([(0.0, head.encode() + body)], stream=stream)


def test_the_parts_of_an_answer_are_put_together_with_what_it_cost() -> None:
    reading = read(pieces(chat({"role": "assistant"}), chat({"content": "Hel"}), chat({"content": "lo"}, "stop")))
    assert (reading.answer.text, reading.answer.finish_reason, reading.problem) == ("Hello", "stop", None)
    assert reading.usage == Usage(prompt_tokens=20, output_tokens=4, cached_tokens=8)
    assert (reading.decode_tps, reading.model, reading.build) == (200.0, "tiny", "b1")


def test_the_first_token_is_the_first_part_that_says_something() -> None:
    reading = read(pieces(chat({"role": "assistant", "content": None}), chat({"content": "a"}), chat({}, "stop")))
    assert reading.first == 1.0


def test_an_answer_reads_the_same_in_whatever_pieces_it_comes() -> None:
    text = "Gr\u00fc\u00dfe \U0001f600"
    chunks = pieces(chat({"reasoning_content": "hm"}), chat({"content": text}), chat({}, "stop"))
    whole = b"".join(piece for _, piece in chunks)
    split = read([(0.0, whole[at : at + 1]) for at in range(len(whole))])
    assert split.answer == read([(0.0, whole)]).answer == read(chunks).answer
    assert (split.answer.text, split.answer.reasoning) == (text, "hm")


def test_what_was_read_before_the_end_is_not_read_again() -> None:
    chunks = pieces(chat({"content": "a"}), chat({"content": "b"}), chat({}, "stop"))
    reader = Reader(stream=True)
    for moment, piece in chunks:
        reader.feed([moment], [piece])
    assert reader.finish(None).answer.text == "ab"


def test_a_tool_call_is_put_together_from_its_parts() -> None:
    def call(index: int, **parts: Any) -> dict[str, Any]:
        return chat({"tool_calls": [{"index": index, **parts}]})

    reading = read(
        pieces(
            call(0, id="c0", type="function", function={"name": "add", "arguments": '{"a"'}),
            call(0, function={"arguments": ": 1}"}),
            call(1, id="c1", type="function", function={"name": "sub", "arguments": "{}"}),
            chat({}, "tool_calls"),
        )
    )
    assert reading.answer.tool_calls == [
        {"id": "c0", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
        {"id": "c1", "type": "function", "function": {"name": "sub", "arguments": "{}"}},
    ]
    assert (reading.answer.text, reading.answer.finish_reason) == (None, "tool_calls")


def test_a_completion_has_its_text() -> None:
    choices = [{"index": 0, "text": "wo", "finish_reason": None}, {"index": 0, "text": "zu", "finish_reason": "length"}]
    reading = read(pieces(*({"choices": [choice]} for choice in choices)))
    assert (reading.answer.text, reading.answer.finish_reason) == ("wozu", "length")


def test_an_answer_without_a_word_is_an_empty_text() -> None:
    assert read(pieces(chat({}, "stop"))).answer.text == ""


def test_an_embedding_is_read_from_a_document() -> None:
    reading = document({"data": [{"embedding": [0.5, -1.0]}], "usage": {"prompt_tokens": 3}})
    assert (reading.answer.embedding, reading.usage.prompt_tokens, reading.problem) == ([0.5, -1.0], 3, None)


def test_an_answer_that_is_one_document_is_read_like_a_stream() -> None:
    choice = {"index": 0, "finish_reason": "stop", "message": {"content": "hi", "tool_calls": [{"id": "c"}]}}
    reading = document({"choices": [choice], "model": "m"}, stream=True)
    assert (reading.answer.text, reading.answer.finish_reason, reading.model) == ("hi", "stop", "m")
    assert reading.answer.tool_calls == [{"id": "c", "type": "function", "function": {"name": "", "arguments": ""}}]


PARTS = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]


def test_a_text_in_parts_is_put_together() -> None:
    choice = {"index": 0, "finish_reason": "stop", "message": {"content": PARTS}}
    assert document({"choices": [choice]}).answer.text == "Hello"
    assert read(pieces(chat({"content": PARTS}), chat({"content": "!"}, "stop"))).answer.text == "Hello!"


@pytest.mark.parametrize(
    ("reading", "kind", "message"),
    [
        (lambda: read([]), "disconnected", "before any answer"),
        (lambda: read([], Failure("connect", "Connection refused")), "connect", "Connection refused"),
        (lambda: read(pieces(chat({"content": "a"}))[:-3]), "disconnected", "without its end"),
        (lambda: read(pieces(chat({"content": "a"}))[:2], Failure("stalled", "silence")), "stalled", "silence"),
        (lambda: read(pieces({"error": {"message": "oom"}})), "in_stream", "oom"),
        (lambda: read(pieces(chat({"content": "a"}, "error"))), "in_stream", "broke the answer off: error"),
        (lambda: read(pieces("nonsense")), "protocol", "not a JSON object: nonsense"),
        (lambda: read([(0.0, b"SMTP ready\r\n\r\n")]), "protocol", "not HTTP"),
        (lambda: document({"data": []}), "protocol", "neither an answer nor an embedding"),
        (lambda: document({"data": [{"embedding": [1]}, {"embedding": [2]}]}), "refused", "2 embeddings"),
        (lambda: document({"data": [{"embedding": [True, 0.5]}]}), "protocol", "neither an answer nor an embedding"),
        (lambda: document({"data": [{"embedding": [10**400]}]}), "protocol", "neither an answer nor an embedding"),
        (lambda: document({"choices": [{"index": 0, "finish_reason": "stop"}]}), "protocol", "without a message"),
        (lambda: read(http(sse("[DONE]"))), "protocol", "ended without an answer"),
        (lambda: read(pieces(chat({"content": ""}))), "protocol", "ended without an answer"),
        (lambda: read(pieces(chat({"content": [{"type": "image"}]}, "stop"))), "protocol", "is no text: {"),
        (lambda: read(pieces(chat({"content": 5}, "stop"))), "protocol", "is no text: 5"),
        (lambda: read(pieces({"choices": [{"index": 1, "text": "b"}]})), "refused", "several answers came"),
        (lambda: document(b"<html>"), "protocol", "instead of JSON"),
        (lambda: document({"error": "x"}, "500 Oh"), "http_status", "HTTP 500: x"),
        (lambda: document({}, "429 Slow", more="Retry-After: 7\r\n"), "rate_limited", "HTTP 429"),
    ],
    ids=range(21),
)
def test_what_comes_instead_of_an_answer_is_a_problem(reading: Any, kind: str, message: str) -> None:
    problem = reading().problem
    assert problem.kind == kind
    assert message in problem.message


def test_an_answer_that_said_its_last_word_is_whole_whatever_became_of_its_connection() -> None:
    chunks = pieces(chat({"content": "a"}, "stop"))[:-1]
    assert read(chunks, Failure("disconnected", "reset")).problem is None
