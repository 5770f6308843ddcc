"""What a streamed answer says, from bytes alone."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from nexus_tasks.load.response import Answer, Chunk, Event, Reading, Segment, StreamError, events, retry_after

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"

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


def segment(pieces: Iterable[tuple[float, bytes]]) -> Segment:
    times, parts = zip(*pieces, strict=True)
    return Segment(np.array(times), np.cumsum([len(part) for part in parts]), b"".join(parts))


def http(chunks: list[Chunk]) -> list[Chunk]:
    """An answer in the chunked coding, a piece off the wire for each chunk."""
    coded = [(moment, b"%x\r\n%s\r\n" % (len(chunk), chunk)) for moment, chunk in chunks]
    return [(-1.0, HEAD), *coded, (99.0, END)]


def read(path: str, chunks: list[Chunk], broken: StreamError | None = None, **options: Any) -> Reading:
    answer = Answer(path, **options)
    answer.feed(segment(http(chunks)))
    return answer.finish(broken)


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


# --- the same reading however the bytes came

LLAMA = [token(n, content=f"{n} ") for n in range(1, 41)]
CHAT = [chat({"role": "assistant", "content": None}), *(chat({"reasoning_content": "r"}) for _ in range(9)),
        *(chat({"content": f"{n} "}) for n in range(30)), chat({}, "stop"), USAGE]  # fmt: skip
ANSWERS = {
    "/completion": (sse(*LLAMA, {**STOP, "tokens_predicted": 40}), 40),
    "/v1/chat/completions": (sse(*CHAT, "[DONE]"), 39),
}


def facts(reading: Reading) -> Any:
    return {**vars(reading), "failure": reading.failure and failure(reading)}


@pytest.mark.parametrize("path", ANSWERS)
def test_an_ordinary_answer_and_one_with_a_comment_say_the_same(path: str) -> None:
    chunks, tokens = ANSWERS[path]
    ordinary = read(path, chunks, keep_text=True)
    assert len(ordinary.tokens) == tokens
    assert ordinary.tokens == sorted(set(ordinary.tokens))
    assert ordinary.text
    for at in range(len(chunks)):
        commented = [*chunks[:at], (float(at), b": comment\n\n"), *chunks[at:]]
        assert facts(read(path, commented, keep_text=True)) == facts(ordinary), at


@pytest.mark.parametrize("path", ANSWERS)
def test_an_answer_says_the_same_in_however_many_segments_it_is_read(path: str) -> None:
    chunks, _ = ANSWERS[path]
    whole = facts(read(path, chunks, keep_text=True))
    pieces = http(chunks)
    for size in (1, 2, 7, 20):
        answer = Answer(path, keep_text=True)
        for at in range(0, len(pieces), size):
            answer.feed(segment(pieces[at : at + size]))
        assert facts(answer.finish()) == whole, size


@pytest.mark.parametrize("path", ANSWERS)
def test_an_answer_says_the_same_wherever_the_network_splits_it(path: str) -> None:
    chunks, _ = ANSWERS[path]
    raw = b"".join(piece for _, piece in http(chunks))
    whole = facts(read(path, [(0.0, chunk) for _, chunk in chunks], keep_text=True))
    chance = random.Random(1)  # noqa: S311 - places, not secrets
    for _ in range(50):
        cuts = [0, *sorted(chance.sample(range(1, len(raw)), 20)), len(raw)]
        answer = Answer(path, keep_text=True)
        for begin, end in itertools.pairwise(cuts):
            answer.feed(segment([(0.0, raw[begin:end])]))
        assert facts(answer.finish()) == whole, cuts


def test_an_event_in_two_pieces_arrives_with_the_byte_that_completes_it() -> None:
    pieces = http(sse(*LLAMA, {**STOP, "tokens_predicted": 40}))
    moment, piece = pieces[5]
    complete = len(piece) - len(b"\r\n")
    for at in range(1, len(piece)):
        answer = Answer("/completion")
        answer.feed(segment([*pieces[:5], (moment, piece[:at]), (moment + 0.5, piece[at:]), *pieces[6:]]))
        assert answer.finish().tokens[:6] == [0.0, 1.0, 2.0, 3.0, 4.0 if at >= complete else 4.5, 5.0], at


def test_an_answer_with_other_line_ends_says_the_same() -> None:
    chunks, _ = ANSWERS["/v1/chat/completions"]
    carriage = [(moment, chunk.replace(b"\n", b"\r\n")) for moment, chunk in chunks]
    assert facts(read("/v1/chat/completions", carriage)) == facts(read("/v1/chat/completions", chunks))


def test_what_looks_like_an_event_inside_a_text_is_text() -> None:
    text = "data: {}\n\ndata: [DONE]\n\n"
    reading = read("/completion", sse(*(token(n, content=text) for n in range(1, 9)), STOP), keep_text=True)
    assert (len(reading.tokens), reading.text) == (8, text * 8)


def test_an_error_among_ordinary_tokens_is_found() -> None:
    messages: list[dict[str, Any] | str] = [*LLAMA[:20], token(21, error={"message": "gone"}), *LLAMA[21:]]
    reading = read("/completion", sse(*messages))
    assert failure(reading) == ("in_stream", "gone")
    assert len(reading.tokens) == 20


@pytest.mark.parametrize("size", [b"5", b"x", b""])
def test_chunk_sizes_that_are_wrong_break_the_protocol(size: bytes) -> None:
    pieces = http(sse(*LLAMA, {**STOP, "tokens_predicted": 40}))
    moment, piece = pieces[9]
    pieces[9] = moment, size + b"\r\n" + piece.partition(b"\r\n")[2]
    answer = Answer("/completion")
    answer.feed(segment(pieces))
    reading = answer.finish()
    assert failure(reading)[0] in ("protocol", "disconnected")
    assert reading.tokens == [float(n) for n in range(8)]


def test_a_carriage_return_ends_a_line_wherever_it_stands() -> None:
    broken = [(20.0, b'data: {"tokens_predicted":\r21,"stop":false}\n\n')]
    reading = read("/completion", [*sse(*LLAMA[:20]), *broken, *sse(*LLAMA[21:])])
    assert failure(reading)[0] == "protocol"
    assert len(reading.tokens) == 20


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3.0), ("0.5", 0.5), (None, None), ("-1", None), ("Wed, 21 Oct 2026", None), ("inf", None)],
)
def test_retry_after_is_taken_in_seconds_and_never_as_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds
