"""Tokens, usage, timings and errors in the messages of both protocols."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_tasks.load.reading import StreamError
from nexus_tasks.load.response import Answer
from tests.support.answers import STOP, USAGE, chat, failure, http, read, segment, sse, token

CHAT = "/v1/chat/completions"


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
        ({"object": "error", "message": "no such model", "code": 404}, "no such model"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"error_code": 50001, "text": "worker died"}, "worker died"),
        ({"type": "error", "error": {"message": "Overloaded"}}, "Overloaded"),
    ],
)
@pytest.mark.parametrize("path", ["/completion", CHAT])
def test_an_error_in_the_stream_is_a_failure_with_its_message(path: str, error: dict[str, Any], message: str) -> None:
    reading = read(path, sse({"choices": [], "tokens_predicted": 0}, error, "[DONE]"))
    assert failure(reading) == ("in_stream", message)


@pytest.mark.parametrize("text", ["{broken", "[1]", "17", "{}", "null"])
def test_an_event_that_is_no_json_object_breaks_the_protocol(text: str) -> None:
    assert failure(read("/completion", sse(token(1), text, STOP)))[0] == "protocol"


def test_a_chat_counts_content_and_reasoning_but_not_the_role() -> None:
    reading = read(
        CHAT,
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
    reading = read(CHAT, sse(chat({"content": "a"}, "stop"), "[DONE]"))
    assert (reading.output_tokens, reading.failure) == (None, None)


def test_an_openai_answer_without_done_was_disconnected() -> None:
    assert failure(read(CHAT, sse(chat({"content": "a"}, "stop"))))[0] == "disconnected"


def test_timings_of_another_shape_are_left_out() -> None:
    reading = read(CHAT, sse({**USAGE, "timings": {"total": "1s", "ok": True}}, "[DONE]"))
    assert reading.timings is None


@pytest.mark.parametrize("data", ["overloaded", '{"message": "overloaded"}', '{"error": {"message": "overloaded"}}'])
@pytest.mark.parametrize("path", ["/completion", CHAT])
def test_an_event_of_the_type_error_is_a_failure_in_the_servers_words(path: str, data: str) -> None:
    chunks = [(0.0, f"event: error\ndata: {data}\n\n".encode()), (1.0, b"data: [DONE]\n\n")]
    assert failure(read(path, chunks)) == ("in_stream", "overloaded")


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        (["[DONE]"], ""),
        ([{"choices": []}, "[DONE]"], ': {"choices": []}'),
        ([chat({"role": "assistant"}), {"note": "model is cold"}, "[DONE]"], ': {"note": "model is cold"}'),
        ([{"usage": {"prompt_tokens": 5, "completion_tokens": 0}}, "[DONE]"], ""),
        ([], ""),
    ],
)
def test_an_end_without_token_finish_reason_or_usage_is_a_failure(messages: list[Any], told: str) -> None:
    kind, message = failure(read(CHAT, sse(*messages)))
    assert kind == "protocol"
    assert message.startswith(f"the stream ended without a token, a finish reason or usage{told}")


@pytest.mark.parametrize("reason", ["error", "ERROR", "abort", "cancelled", "insufficient_system_resource"])
def test_a_finish_reason_that_tells_of_a_failure_is_one(reason: str) -> None:
    reading = read(CHAT, sse(chat({"content": "a"}), chat({}, reason), USAGE, "[DONE]"))
    assert failure(reading) == ("in_stream", f"the server broke the answer off: {reason}")


def test_a_whole_answer_needs_no_done() -> None:
    reading = read(CHAT, sse(chat({"content": "a"}), chat({}, "stop"), USAGE))
    assert (reading.failure, reading.end, reading.output_tokens) == (None, 2.0, 4)
    # Each of the two may have been cut off.
    assert failure(read(CHAT, sse(chat({"content": "a"}), USAGE)))[0] == "disconnected"
    assert failure(read(CHAT, sse(chat({"content": "a"}, "stop"))))[0] == "disconnected"


def test_a_whole_answer_that_was_broken_off_after_its_usage_is_none() -> None:
    broken = StreamError("disconnected", "Connection reset by peer")
    answer = Answer(CHAT)
    answer.feed(segment(http(sse(chat({"content": "a"}), chat({}, "stop"), USAGE))[:-1]))
    assert failure(answer.finish(broken)) == ("disconnected", "Connection reset by peer")


def counting(tokens: int, total: int | None = None, reasoning: int | None = None) -> dict[str, Any]:
    usage: dict[str, Any] = {"prompt_tokens": 20, "completion_tokens": tokens}
    usage |= {} if total is None else {"total_tokens": total}
    usage |= {} if reasoning is None else {"completion_tokens_details": {"reasoning_tokens": reasoning}}
    return {"choices": [], "usage": usage}


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (counting(50, 70, 40), 50),  # as OpenAI counts
        (counting(10, 70, 40), 50),
        (counting(10, 70), 50),
        (counting(10, None, 40), 50),
        (counting(10), 50),
        (counting(50), 50),
        (counting(12), 12 + 40),
        (counting(50, 10), 50),
    ],
)
def test_reasoning_that_is_counted_beside_the_answer_is_a_part_of_it(usage: dict[str, Any], tokens: int) -> None:
    messages = [chat({"reasoning_content": "r"})] * 40 + [chat({"content": "a"})] * 10
    reading = read(CHAT, sse(*messages, chat({}, "stop"), usage, "[DONE]"))
    assert (reading.output_tokens, len(reading.tokens), reading.reasoning_tokens) == (tokens, 50, 40)


def test_a_server_that_counts_with_each_chunk_says_how_many_tokens_it_brings() -> None:
    chunks = [{**chat({"content": "a"}), "usage": counting(n)["usage"]} for n in (3, 4, 4)]
    reading = read(CHAT, sse(*chunks, chat({}, "stop"), counting(5), "[DONE]"))
    assert (reading.tokens, reading.output_tokens) == ([0.0, 0.0, 0.0, 1.0, 2.0], 5)


def test_more_tokens_than_can_be_are_a_failure() -> None:
    assert failure(read("/completion", sse(token(10**15), STOP)))[0] == "protocol"


@pytest.mark.parametrize("data", ["", " "])
def test_events_without_data_say_nothing(data: str) -> None:
    reading = read(CHAT, sse(data, chat({"content": "a"}, "stop"), data, USAGE, "[DONE]"))
    assert (reading.failure, reading.tokens) == (None, [1.0])
