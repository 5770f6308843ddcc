"""An answer says the same however its bytes came."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from nexus_tasks.load.reading import Reading
from nexus_tasks.load.response import Answer, retry_after
from tests.support.answers import STOP, USAGE, chat, failure, http, read, segment, sse, token

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
