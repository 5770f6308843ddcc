"""What a streamed answer says, from bytes alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nexus_tasks.stream import Chunk, Event, Reading, StreamError, events, read

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


def sse(*messages: dict[str, Any] | str) -> list[Chunk]:
    """One chunk per message, a second apart."""
    texts = [message if isinstance(message, str) else json.dumps(message) for message in messages]
    return [(float(second), f"data: {text}\n\n".encode()) for second, text in enumerate(texts)]


def token(predicted: int, **more: Any) -> dict[str, Any]:
    return {"content": "a", "tokens": [5], "stop": False, "tokens_predicted": predicted, **more}


STOP = {
    "content": "", "stop": True, "stop_type": "limit", "tokens_predicted": 3, "tokens_evaluated": 8,
    "timings": {"prompt_n": 8, "prompt_ms": 4.0, "predicted_n": 3, "predicted_ms": 2.0, "cache_n": 0},
}  # fmt: skip


def failure(reading: Reading) -> tuple[str, str]:
    assert reading.failure is not None
    return reading.failure.kind, reading.failure.message


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


def test_a_completion_has_an_arrival_for_each_token() -> None:
    reading = read("/completion", sse(token(1), token(2), token(3), STOP))
    assert reading.tokens == [0.0, 1.0, 2.0]
    assert (reading.end, reading.failure) == (3.0, None)
    assert (reading.prompt_tokens, reading.output_tokens, reading.finish_reason) == (8, 3, "limit")
    assert reading.timings == STOP["timings"]


def test_tokens_that_were_held_back_count_when_their_event_arrives() -> None:
    reading = read("/completion", sse(token(1), token(3), STOP))
    assert reading.tokens == [0.0, 1.0, 1.0]


def test_prompt_progress_before_the_first_token_is_no_token() -> None:
    reading = read("/completion", sse(token(0, content="", prompt_progress={"total": 8}), token(1), STOP))
    assert reading.tokens == [1.0]


@pytest.mark.parametrize("end", [[], ["[DONE]"]])
def test_a_completion_without_its_last_event_was_disconnected(end: list[str]) -> None:
    reading = read("/completion", sse(token(1), token(2), *end))
    assert failure(reading) == ("disconnected", "the stream stopped without its end, after 2 tokens")
    assert reading.tokens == [0.0, 1.0]


def test_what_broke_the_connection_is_the_failure_of_an_unfinished_answer() -> None:
    broken = StreamError("timeout", "nothing arrived for 5 s")
    assert failure(read("/completion", sse(token(1)), broken)) == ("timeout", "nothing arrived for 5 s")


def test_a_connection_that_breaks_after_the_end_is_no_failure() -> None:
    broken = StreamError("disconnected", "peer closed connection")
    assert read("/completion", sse(token(1), STOP), broken).failure is None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ({"error": {"code": 500, "message": "out of\nmemory"}}, "out of memory"),
        ({"error": "out of memory"}, "out of memory"),
        ({"error": {"code": 500}}, "{'code': 500}"),
    ],
)
@pytest.mark.parametrize("path", ["/completion", "/v1/chat/completions"])
def test_an_error_in_the_stream_is_a_failure_with_its_message(path: str, error: dict[str, Any], message: str) -> None:
    reading = read(path, sse({"choices": [], "tokens_predicted": 0}, error, "[DONE]"))
    assert failure(reading) == ("in_stream", message)


@pytest.mark.parametrize("text", ["{broken", "[1]", "17", "{}", "null"])
def test_an_event_that_is_no_json_object_breaks_the_protocol(text: str) -> None:
    assert failure(read("/completion", sse(token(1), text, STOP)))[0] == "protocol"


def chat(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 4}}


def test_a_chat_counts_content_and_reasoning_but_not_the_role() -> None:
    reading = read(
        "/v1/chat/completions",
        sse(
            chat({"role": "assistant", "content": None}),
            chat({"reasoning_content": "hm"}),
            chat({"content": "a"}),
            chat({"content": ""}),
            chat({"tool_calls": [{"index": 0}]}),
            chat({}, "stop"),
            USAGE,
            "[DONE]",
        ),
    )
    assert reading.tokens == [1.0, 2.0, 4.0]
    assert (reading.prompt_tokens, reading.output_tokens, reading.finish_reason) == (20, 4, "stop")
    assert (reading.end, reading.failure) == (7.0, None)


def test_a_text_completion_of_an_openai_server_is_read_as_well() -> None:
    reading = read(
        "/v1/completions",
        sse({"choices": [{"text": "a"}]}, {"choices": [{"text": "b", "finish_reason": "length"}]}, USAGE, "[DONE]"),
    )
    assert reading.tokens == [0.0, 1.0]
    assert (reading.output_tokens, reading.finish_reason) == (4, "length")


def test_an_openai_answer_without_usage_has_no_token_count() -> None:
    reading = read("/v1/chat/completions", sse(chat({"content": "a"}, "stop"), "[DONE]"))
    assert (reading.output_tokens, reading.failure) == (None, None)


def test_an_openai_answer_without_done_was_disconnected() -> None:
    assert failure(read("/v1/chat/completions", sse(chat({"content": "a"}, "stop"))))[0] == "disconnected"


def test_timings_of_another_shape_are_left_out() -> None:
    reading = read("/v1/chat/completions", sse({**USAGE, "timings": {"total": "1s", "ok": True}}, "[DONE]"))
    assert reading.timings is None
