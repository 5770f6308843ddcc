"""An answer says the same however its bytes came."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from nexus_tasks.load.event_stream import Chunk
from nexus_tasks.load.reading import Reading
from nexus_tasks.load.response import Answer
from tests.support.answers import END, HEAD, STOP, USAGE, chat, failure, http, read, segment, sse, token

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


@pytest.mark.parametrize("path", ANSWERS)
def test_a_line_that_is_no_field_brings_no_token_even_where_an_event_without_data_makes_up_for_it(path: str) -> None:
    chunks, _ = ANSWERS[path]
    (moment, event), (_, other) = chunks[10:12]
    stray = event.removesuffix(b"\n") + other.removeprefix(b"data: ")
    odd = [*chunks[:10], (moment, stray), (moment + 1, b"data: \n\n"), *chunks[12:]]
    commented = [*odd[:5], (4.5, b": comment\n\n"), *odd[5:]]
    assert facts(read(path, odd, keep_text=True)) == facts(read(path, commented, keep_text=True))


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


def chunked(chunks: list[Chunk], size: bytes = b"%x", extension: bytes = b"", end: bytes = END) -> list[Chunk]:
    """An answer in the chunked coding, in a form of its own."""
    coded = [(moment, size % len(chunk) + extension + b"\r\n" + chunk + b"\r\n") for moment, chunk in chunks]
    return [(-1.0, HEAD), *coded, (99.0, end)]


def bytewise(chunks: list[Chunk]) -> list[Chunk]:
    """Each byte in a chunk of its own."""
    return [(moment, bytes([byte])) for moment, chunk in chunks for byte in chunk]


def said(chunks: list[Chunk], old: bytes, new: bytes) -> list[Chunk]:
    return [(moment, chunk.replace(old, new)) for moment, chunk in chunks]


EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
CLOSED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
FORMS: dict[str, Callable[[list[Chunk]], list[Chunk]]] = {
    "trailers": lambda chunks: chunked(chunks, end=b"0\r\nServer-Timing: a;dur=1\r\nX-Sum: 1\r\n\r\n"),
    "an extension": lambda chunks: chunked(chunks, extension=b';a="b c"'),
    "sizes with zeros": lambda chunks: chunked(chunks, size=b"000%X", end=b"0000\r\n\r\n"),
    "a byte in each chunk": lambda chunks: chunked(bytewise(chunks)),
    "an early answer": lambda chunks: [(-2.0, EARLY), *http(chunks)],
    "an early answer in the same piece": lambda chunks: [(-1.0, EARLY + HEAD), *http(chunks)[1:]],
    "the end of the connection": lambda chunks: [(-1.0, CLOSED), *chunks],
    "a length": lambda chunks: [
        (-1.0, CLOSED[:-2] + b"Content-Length: %d\r\n\r\n" % sum(len(chunk) for _, chunk in chunks)), *chunks
    ],
    "CRLF": lambda chunks: http(said(chunks, b"\n", b"\r\n")),
    "CR": lambda chunks: http(said(chunks, b"\n", b"\r")),
    "no blank": lambda chunks: http(said(chunks, b"data: ", b"data:")),
    "types": lambda chunks: http(said(chunks, b"data: ", b"event: message\nid: 7\nretry: 5\ndata: ")),
    "empty events": lambda chunks: http(said(chunks, b"data: ", b"data:\n\ndata: ")),
    "comments": lambda chunks: http(said(chunks, b"data: ", b": ping\n\ndata: ")),
    "two lines of data": lambda chunks: http(said(chunks, b", ", b",\ndata: ")),
    "a byte order mark": lambda chunks: http([(chunks[0][0], b"\xef\xbb\xbf" + chunks[0][1]), *chunks[1:]]),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", ANSWERS)
def test_an_answer_says_the_same_in_every_form_that_the_standards_have(path: str, form: str) -> None:
    chunks, _ = ANSWERS[path]
    expected = facts(read(path, chunks, keep_text=True))
    pieces = FORMS[form](chunks)
    answer = Answer(path, keep_text=True)
    answer.feed(segment(pieces))
    assert facts(answer.finish()) == expected
    answer = Answer(path, keep_text=True)
    answer.feed(segment(bytewise(pieces)))
    assert facts(answer.finish()) == expected


@pytest.mark.parametrize("path", ANSWERS)
@pytest.mark.parametrize("more", [b"", b"Content-Length: 15\r\n"])
@pytest.mark.parametrize("coding", [b"Content-Encoding: gzip", b"Transfer-Encoding: gzip, chunked"])
def test_an_answer_in_a_coding_that_nobody_asked_for_is_a_failure(path: str, coding: bytes, more: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%s%s\r\n\r\n" % (more, coding)
    answer = Answer(path)
    answer.feed(segment([(0.0, head), (1.0, b"5\r\n\x1f\x8b\x08..\r\n0\r\n\r\n")]))
    kind, message = failure(answer.finish())
    assert kind == "protocol"
    assert message == f"the answer is in {coding.partition(b': ')[2].decode()}, which nobody asked for"


def document(body: bytes, status: bytes = b"200 OK") -> Reading:
    answer = Answer("/v1/embeddings", stream=False)
    head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
    answer.feed(segment([(0.0, head), (1.0, body)]))
    return answer.finish()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"object": "error", "message": "no such model", "code": 404}', "no such model"),
        (b'{"detail": [{"msg": "field required"}]}', "field required"),
        (b'{"error_code": 50001, "text": "out of memory"}', "out of memory"),
        (b'{"errors": ["too long"]}', "too long"),
        (b'{"message": "quota", "code": "E1"}', "quota"),
        (b"{}", "neither embeddings nor ranks came: {}"),
        (b'{"data": [], "object": "list"}', 'neither embeddings nor ranks came: {"data": [], "object": "list"}'),
    ],
)
def test_a_document_without_results_is_a_failure_in_the_servers_words(body: bytes, message: str) -> None:
    assert failure(document(body))[1] == message
    assert failure(document(body, b"500 Oh"))[0] == "http_status"


def test_a_document_has_numbers_that_json_does_not_know() -> None:
    reading = document(b'{"data": [{"embedding": [NaN, -Infinity, 1e999]}], "usage": {"prompt_tokens": 9}}')
    assert (reading.failure, reading.prompt_tokens) == (None, 9)
