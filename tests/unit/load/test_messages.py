"""Tokens, usage, timings and errors in the messages of both protocols."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_tasks.load.reading import StreamError
from tests.support.answers import STOP, USAGE, chat, failure, read, sse, token


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
        ({"error": {"code": 500}}, '{"code": 500}'),
    ],
)
@pytest.mark.parametrize("path", ["/completion", "/v1/chat/completions"])
def test_an_error_in_the_stream_is_a_failure_with_its_message(path: str, error: dict[str, Any], message: str) -> None:
    reading = read(path, sse({"choices": [], "tokens_predicted": 0}, error, "[DONE]"))
    assert failure(reading) == ("in_stream", message)


@pytest.mark.parametrize("text", ["{broken", "[1]", "17", "{}", "null"])
def test_an_event_that_is_no_json_object_breaks_the_protocol(text: str) -> None:
    assert failure(read("/completion", sse(token(1), text, STOP)))[0] == "protocol"


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
