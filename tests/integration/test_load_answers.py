"""The load generator reads the answers of servers, whatever they do wrong, on raw sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any

import msgspec
import pytest

from nexus_tasks.load.requests import Limits, Stage
from tests.support.known import known
from tests.support.load_runs import asked, drive, error, one
from tests.support.raw_server import CHAT, DONE, EVENTS, FINISH, Peer, delta, serving, stop, token

pytestmark = pytest.mark.alone


NO_STREAM = "text/html came instead of a stream of events: <p>hello"


def test_a_server_that_dies_in_the_middle_is_a_failure_with_what_had_come() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        peer.say(token(1), token(2))

    row = one(answer)
    assert error(row) == ("disconnected", "the stream stopped without its end, after 2 tokens")
    assert (row.output_tokens, len(row.itl_ms)) == (2, 1)
    assert row.decode_ms is None


def test_a_server_that_resets_the_connection_is_a_failure() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        peer.say(token(1))
        peer.line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    assert error(one(answer)) == ("disconnected", "Connection reset by peer")


def test_a_server_that_hangs_up_without_an_answer_is_a_failure() -> None:
    assert error(one(lambda peer: None)) == ("disconnected", "the server closed the connection without an answer")


def test_silence_longer_than_the_limit_per_token_is_a_timeout() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        peer.say(token(1))
        peer.line.recv(1)  # until the client gives up

    row = one(answer, limits=Limits(token_s=1))
    assert error(row) == ("timeout", "nothing arrived for 1 s")
    assert row.output_tokens == 1


def test_comments_that_keep_a_connection_alive_are_no_news() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        peer.say(token(1))
        with contextlib.suppress(OSError):
            while True:
                peer.say(b": still here\n\n")
                time.sleep(0.02)

    row = one(answer, limits=Limits(token_s=1))
    assert error(row) == ("timeout", "nothing but keep-alive messages for 1 s")


def test_comments_between_tokens_do_no_harm() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        peer.say(b":\n\n", token(1), b": ping\n\n", token(2), b":\r\n\r\n", stop(2))
        peer.end()

    row = one(answer)
    assert (row.ok, row.output_tokens, len(row.itl_ms)) == (True, 2, 1)


def test_a_request_longer_than_its_limit_is_a_timeout_though_tokens_come() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        with contextlib.suppress(OSError):
            for predicted in range(1, 10_000):
                peer.say(token(predicted))

    assert error(one(answer, limits=Limits(request_s=0.3))) == ("timeout", "not at its end after 0.3 s")


def test_events_without_data_keep_a_connection_alive_and_are_no_news() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        peer.say(b"data:\n\n", token(1), b"event: ping\ndata:\n\n", stop(1))
        peer.end()

    row = one(answer)
    assert (row.ok, row.output_tokens) == (True, 1)

    def forever(peer: Peer) -> None:
        peer.raw(EVENTS)
        with contextlib.suppress(OSError):
            while True:
                peer.say(b"data:\n\n")
                time.sleep(0.02)

    assert error(one(forever, limits=Limits(token_s=1))) == ("timeout", "nothing but keep-alive messages for 1 s")


@pytest.mark.parametrize(
    "end",
    [
        [b"0\r\nServer-Timing: total;dur=1\r\n\r\n"],
        [b"0\r\n", b"Server-Timing: total;dur=1\r\n", b"\r\n"],
        [b"000;last\r\n\r", b"\n"],
        [],  # it has said [DONE], and forgets to end its answer
    ],
)
def test_a_user_goes_on_when_the_answer_has_ended_whatever_its_end_is(end: list[bytes]) -> None:
    def answer(peer: Peer) -> bool:
        peer.raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + EVENTS)
        peer.say(delta(content="a"), FINISH, DONE)
        peer.raw(*end)
        if not end:
            peer.line.recv(1)
        return True

    began = time.monotonic()
    with serving(answer) as address:
        rows, _ = drive(address, Stage("closed", concurrency=1, requests=3), Limits(token_s=60), asked(CHAT))
    assert [row.ok for row in rows] == [True] * 3
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("status", [b"200 OK", b"500 Oh"])
def test_a_body_that_never_ends_is_given_up(status: bytes) -> None:
    def answer(peer: Peer) -> None:
        peer.raw(b"HTTP/1.1 %s\r\nContent-Type: application/json\r\n\r\n" % status)
        with contextlib.suppress(OSError):
            while True:
                peer.line.sendall(b"x" * (1 << 20))

    kind, message = error(one(answer, limits=Limits(token_s=60)))
    expected = "the answer is larger than 64 MiB, and goes on" if b"200" in status else "HTTP 500: xxxxxxxx"
    assert (kind, message[: len(expected)]) == ("protocol" if b"200" in status else "http_status", expected)
    assert len(message) < 400


def test_a_body_that_drips_is_given_up() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(b"HTTP/1.1 500 Oh\r\nContent-Length: 1000000\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                peer.raw(b"x")
                time.sleep(0.05)

    assert error(one(answer, limits=Limits(token_s=1)))[0] == "http_status"


def test_a_letter_in_two_halves_is_put_together() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        peer.say(delta(content="\ud83e"), delta(content="\udd99 \ud83e"), FINISH, DONE)
        peer.end()

    assert one(answer, CHAT, limits=Limits(keep_answers=True)).answer == "🦙 \ufffd"


def test_numbers_that_are_none_make_no_figures() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        usage = {"prompt_tokens": -1, "completion_tokens": 10**30}
        timings = {"prompt_n": 1e300, "prompt_ms": 1e-300, "predicted_n": float("nan"), "predicted_ms": float("-inf")}
        peer.say(delta(content="a"), FINISH, {"choices": [], "usage": usage, "timings": timings}, DONE)
        peer.end()

    row = one(answer, CHAT)
    assert (row.prompt_tokens, row.output_tokens, row.prefill_tps) == (None, None, None)
    assert json.loads(json.dumps(msgspec.to_builtins(row), allow_nan=False))


def test_a_stall_is_counted() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        peer.say(*(token(n) for n in range(1, 6)))
        time.sleep(1)
        peer.say(token(6), stop(6))
        peer.end()

    row = one(answer)
    assert (row.ok, row.stalls) == (True, 1)
    assert max(row.itl_ms) > 700  # less than the pause: a busy machine may have stamped the token before it late


def test_a_chat_that_ends_without_done_was_cut_off() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        peer.say(delta(content="a"), FINISH)
        peer.end()

    assert error(one(answer, CHAT)) == ("disconnected", "the stream stopped without its end, after 1 tokens")


def test_usage_in_a_last_chunk_without_choices_gives_the_number_of_tokens() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        usage = {"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
        # Several tokens in a chunk, then none in one.
        peer.say(delta(role="assistant", content=None), delta(content="a b c"), delta(), delta(content=""))
        peer.say(delta(content="d e"), FINISH, {"choices": [], "usage": usage}, DONE)
        peer.end()

    row = one(answer, CHAT, output_tokens=5)
    assert row.ok is True
    assert (row.prompt_tokens, row.output_tokens, row.cached_tokens) == (7, 5, 4)
    assert (row.untimed, row.itl_ms) == ("its events carried 2 of its 5 tokens", [])
    assert row.finish_reason == "stop"


def test_tokens_that_came_in_one_event_arrived_at_one_moment() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        peer.say(token(1), token(4), stop(4))
        peer.end()

    row = one(answer)
    assert (row.ok, row.output_tokens) == (True, 4)
    assert row.itl_ms[1:] == [0.0, 0.0]
    assert row.itl_ms[0] > 0


def test_characters_that_are_split_between_chunks_are_put_together() -> None:
    def answer(peer: Peer) -> None:
        data = b'data: {"choices":[{"index":0,"delta":{"content":"\xf0\x9f\xa6\x99 \xc3\xa4"}}]}\n\n'
        peer.raw(EVENTS, *(b"1\r\n%c\r\n" % byte for byte in data))
        peer.say(FINISH, DONE)
        peer.end()

    row = one(answer, CHAT, limits=Limits(keep_answers=True))
    assert (row.ok, row.answer) == (True, "🦙 ä")


def test_reasoning_is_told_from_what_is_visible() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        peer.say(delta(reasoning_content="hm"), delta(reasoning_content="so"))
        time.sleep(0.5)
        peer.say(delta(content="a"), FINISH, DONE)
        peer.end()

    row = one(answer, CHAT, limits=Limits(keep_answers=True))
    assert (row.reasoning_tokens, row.answer) == (2, "a")
    assert known(row.ttft_visible_ms) > known(row.ttft_ms) + 200


def test_an_error_event_inside_a_stream_is_a_failure() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        peer.say(delta(content="a"), {"error": {"code": 500, "message": "out of\nmemory"}}, DONE)
        peer.end()

    assert error(one(answer, CHAT)) == ("in_stream", "out of memory")


@pytest.mark.parametrize(
    ("head", "body", "expected"),
    [
        (b"200 OK\r\nContent-Type: text/html", b"<p>hello", ("protocol", NO_STREAM)),
        (b"200 OK\r\nContent-Type: application/json", b'{"error": {"message": "no"}}', ("in_stream", "no")),
        (b"404 Not Found", b'{"error": {"message": "model not found"}}', ("http_status", "HTTP 404: model not found")),
        (b"500 Oh", b"", ("http_status", "HTTP 500: an empty answer")),
    ],
)  # fmt: skip
def test_an_answer_that_is_no_stream_is_a_failure_that_says_what_came(
    head: bytes, body: bytes, expected: tuple[str, str]
) -> None:
    assert (
        error(one(lambda peer: peer.raw(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (head, len(body), body))))
        == expected
    )


def test_what_is_no_http_is_a_failure() -> None:
    kind, message = error(one(lambda peer: peer.raw(b"SSH-2.0-OpenSSH\r\n\r\n")))
    assert (kind, message.partition(":")[0]) == ("protocol", "not HTTP")


@pytest.mark.parametrize(
    ("options", "predicted", "reason", "ok"),
    [
        ({"output_tokens": 4}, 3, "limit", False),
        ({"output_tokens": 4}, 3, "eos", True),
        ({"output_tokens": 4, "exact_output": True}, 3, "eos", False),
        ({"output_tokens": 3, "exact_output": True}, 3, "limit", True),
    ],
)
def test_an_answer_shorter_than_asked_without_a_reason_is_a_failure(
    options: dict[str, Any], predicted: int, reason: str, ok: bool
) -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        peer.say(*(token(n) for n in range(1, predicted + 1)), {**stop(predicted), "stop_type": reason})
        peer.end()

    row = one(answer, **options)
    assert row.ok is ok
    if not ok:
        assert error(row) == ("short", f"3 of 4 output tokens ({reason})")


def test_a_prompt_that_the_server_saw_otherwise_is_a_failure() -> None:
    def answer(peer: Peer) -> None:
        peer.completion(1)
        peer.end()

    assert error(one(answer, prompt_tokens=4)) == ("protocol", "the server saw 3 of 4 prompt tokens")


def test_prefill_that_the_cache_helped_is_no_prefill_speed() -> None:
    def answer(peer: Peer) -> bool:
        peer.completion(2, cache_n=peer.number)
        peer.end()
        return True

    with serving(answer) as address:
        rows, _ = drive(address, Stage("closed", concurrency=1, requests=2))
    assert [row.prefill_tps for row in rows] == [3000.0, None]
    assert [row.cached_tokens for row in rows] == [0, 1]


def test_embeddings_are_one_document() -> None:
    def answer(peer: Peer) -> bool:
        body = json.dumps({"data": [{"embedding": [0.5] * 5000}], "usage": {"prompt_tokens": 9}}).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        peer.raw(head, body[:7], body[7:9000], body[9000:])
        return True

    row = one(answer, "/v1/embeddings", stream=False, prompt_tokens=9)
    assert (row.ok, row.prompt_tokens, row.ttft_ms) == (True, 9, None)
    assert known(row.total_ms) > 0


def test_the_backend_behind_a_balancer_is_noted() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS[:-2] + b"X-Backend: gpu2\r\n\r\n")
        peer.say(token(1), stop(1))
        peer.end()

    assert one(answer).backend == "gpu2"


def test_tokens_that_came_with_the_end_have_no_part_in_the_speed() -> None:
    def answer(peer: Peer) -> bool:
        peer.raw(EVENTS)
        peer.say(token(1))
        time.sleep(0.1)
        peer.say(token(2), stop(4))  # two more were held back
        peer.end()
        return True

    row = one(answer, output_tokens=4)
    assert row.output_tokens == 4
    assert row.decode_tps == pytest.approx(1000 / known(row.decode_ms), rel=1e-4)
