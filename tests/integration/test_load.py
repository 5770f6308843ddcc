"""The load generator against servers that misbehave on raw sockets, and against a real llama-server."""

from __future__ import annotations

import contextlib
import datetime
import functools
import ipaddress
import itertools
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nexus_tasks.core.errors import EndpointDown
from nexus_tasks.load import generator
from nexus_tasks.load.generator import Item, Limits, Request, Row, Stage, Watch
from tests.conftest import ROOT, RunningServer, free_port

CHAT = "/v1/chat/completions"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
KEY = "sk-integration-0123456789abcdef"
NO_STREAM = "text/html came instead of a stream of events: <p>hello"
NO_LIMITS = Limits()
ONE = Stage("closed", concurrency=1, requests=1)

pytestmark = pytest.mark.alone


class Peer:
    """The server's end of a connection."""

    def __init__(self, line: socket.socket, body: bytes, number: int, head: bytes) -> None:
        self.line, self.body, self.number, self.head = line, body, number, head

    def raw(self, *pieces: bytes) -> None:
        """Send pieces, each by itself."""
        for piece in pieces:
            self.line.sendall(piece)
            time.sleep(0.002)

    def say(self, *messages: Any) -> None:
        """Send events in the chunked coding: objects as JSON, bytes as they are."""
        for message in messages:
            data = message if isinstance(message, bytes) else b"data: " + json.dumps(message).encode() + b"\n\n"
            self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    def completion(self, tokens: int, **more: Any) -> None:
        """A whole answer of llama-server's, without the end of its body."""
        self.raw(EVENTS)
        self.say(*(token(n) for n in range(1, tokens + 1)), stop(tokens, **more))

    def end(self) -> None:
        """End a body in the chunked coding."""
        self.raw(b"0\r\n", b"\r\n")


def token(predicted: int) -> Row:
    return {"content": "a", "tokens": [5], "stop": False, "tokens_predicted": predicted, "tokens_evaluated": 3}


def stop(predicted: int, **timings: float) -> Row:
    return {
        "content": "", "stop": True, "stop_type": "limit", "tokens_predicted": predicted, "tokens_evaluated": 3,
        "timings": {
            "prompt_n": 3, "prompt_ms": 1.0, "predicted_n": predicted, "predicted_ms": 2.0, "cache_n": 0, **timings,
        },
    }  # fmt: skip


def delta(**content: Any) -> Row:
    return {"choices": [{"index": 0, "delta": content, "finish_reason": None}]}


FINISH = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
DONE = b"data: [DONE]\n\n"


def _request(line: socket.socket) -> tuple[bytes, bytes] | None:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := line.recv(65536)):
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(row[15:]) for row in head.split(b"\r\n") if row.lower().startswith(b"content-length:"))
    while len(body) < length:
        if not (more := line.recv(65536)):
            return None
        body += more
    return head, body


@contextlib.contextmanager
def serving(answer: Callable[[Peer], bool | None], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve on loopback. ``answer`` gives True where the connection stays; the block gets the address."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    lock, numbers, threads = threading.Lock(), iter(range(1 << 30)), []

    def serve(line: socket.socket) -> None:
        if tls:
            line = tls.wrap_socket(line, server_side=True, do_handshake_on_connect=False)
        with contextlib.suppress(OSError), contextlib.closing(line):
            if isinstance(line, ssl.SSLSocket):
                line.do_handshake()
            while request := _request(line):
                with lock:
                    number = next(numbers)
                if not answer(Peer(line, request[1], number, request[0])):
                    if isinstance(line, ssl.SSLSocket):
                        line.unwrap()
                    return

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = listener.accept()
                threads.append(threading.Thread(target=serve, args=(line,), daemon=True))
                threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for thread in threads:
            thread.join(timeout=5)


def asked(path: str = "/completion", count: int = 1_000_000, **options: Any) -> Iterator[Item]:
    for number in range(count):
        yield Item((Request(path, json.dumps({"number": number}).encode(), **options),), key=f"item-{number}")


def drive(
    address: str, stage: Stage = ONE, limits: Limits = NO_LIMITS, items: Iterator[Item] | None = None, **options: Any
) -> tuple[list[Row], Watch]:
    rows: list[Row] = []
    options = {"index": 0, "origin": time.perf_counter(), "on_rows": rows.extend, **options}
    api_key = options.pop("api_key", None)
    watch = generator.run(address, api_key, items if items is not None else asked(), stage, limits, **options)
    return rows, watch


def one(
    answer: Callable[[Peer], bool | None], path: str = "/completion", limits: Limits = NO_LIMITS, **options: Any
) -> Row:
    """The row of one request."""
    with serving(answer) as address:
        rows, _ = drive(address, limits=limits, items=asked(path, **options))
    assert len(rows) == 1
    return rows[0]


def error(row: Row) -> tuple[str, str]:
    assert row["ok"] is False
    return row["error"]["kind"], row["error"]["message"]


# --- what servers do wrong


def test_a_server_that_dies_in_the_middle_is_a_failure_with_what_had_come() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        peer.say(token(1), token(2))

    row = one(answer)
    assert error(row) == ("disconnected", "the stream stopped without its end, after 2 tokens")
    assert (row["output_tokens"], len(row["itl_ms"])) == (2, 1)
    assert row["decode_ms"] is None


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
    assert row["output_tokens"] == 1


def test_comments_that_keep_a_connection_alive_are_no_news() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        peer.say(token(1))
        with contextlib.suppress(OSError):
            while True:
                peer.say(b": still here\n\n")
                time.sleep(0.02)

    row = one(answer, limits=Limits(token_s=1))
    assert error(row) == ("timeout", "nothing but keep-alive comments for 1 s")


def test_comments_between_tokens_do_no_harm() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        peer.say(b":\n\n", token(1), b": ping\n\n", token(2), b":\r\n\r\n", stop(2))
        peer.end()

    row = one(answer)
    assert (row["ok"], row["output_tokens"], len(row["itl_ms"])) == (True, 2, 1)


def test_a_request_longer_than_its_limit_is_a_timeout_though_tokens_come() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        with contextlib.suppress(OSError):
            for predicted in range(1, 10_000):
                peer.say(token(predicted))

    assert error(one(answer, limits=Limits(request_s=0.3))) == ("timeout", "not at its end after 0.3 s")


def test_a_stall_is_counted() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        peer.say(*(token(n) for n in range(1, 6)))
        time.sleep(1)
        peer.say(token(6), stop(6))
        peer.end()

    row = one(answer)
    assert (row["ok"], row["stalls"]) == (True, 1)
    assert max(row["itl_ms"]) > 700  # less than the pause: a busy machine may have stamped the token before it late


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
    assert row["ok"] is True
    assert (row["prompt_tokens"], row["output_tokens"], row["cached_tokens"]) == (7, 5, 4)
    assert len(row["itl_ms"]) == 1
    assert row["finish_reason"] == "stop"


def test_tokens_that_came_in_one_event_arrived_at_one_moment() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        peer.say(token(1), token(4), stop(4))
        peer.end()

    row = one(answer)
    assert (row["ok"], row["output_tokens"]) == (True, 4)
    assert row["itl_ms"][1:] == [0.0, 0.0]
    assert row["itl_ms"][0] > 0


def test_characters_that_are_split_between_chunks_are_put_together() -> None:
    def answer(peer: Peer) -> None:
        data = b'data: {"choices":[{"index":0,"delta":{"content":"\xf0\x9f\xa6\x99 \xc3\xa4"}}]}\n\n'
        peer.raw(EVENTS, *(b"1\r\n%c\r\n" % byte for byte in data))
        peer.say(FINISH, DONE)
        peer.end()

    row = one(answer, CHAT, limits=Limits(keep_answers=True))
    assert (row["ok"], row["answer"]) == (True, "🦙 ä")


def test_reasoning_is_told_from_what_is_visible() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS)
        peer.say(delta(reasoning_content="hm"), delta(reasoning_content="so"))
        time.sleep(0.5)
        peer.say(delta(content="a"), FINISH, DONE)
        peer.end()

    row = one(answer, CHAT, limits=Limits(keep_answers=True))
    assert (row["reasoning_tokens"], row["answer"]) == (2, "a")
    assert row["ttft_visible_ms"] > row["ttft_ms"] + 200


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


@pytest.mark.parametrize("status", [b"429 Too Many", b"503 Busy"])
def test_a_user_who_is_told_to_wait_waits_and_the_request_has_failed(status: bytes) -> None:
    def answer(peer: Peer) -> bool:
        if peer.number == 0:
            peer.raw(b"HTTP/1.1 %s\r\nRetry-After: 0.4\r\nContent-Length: 2\r\n\r\n{}" % status)
        else:
            peer.completion(2)
            peer.end()
        return True

    with serving(answer) as address:
        (first, second), _ = drive(address, Stage("closed", concurrency=1, requests=2))
    assert error(first)[0] == "http_status"
    assert first["error"]["retry_after_s"] == 0.4
    assert second["ok"] is True
    assert second["start_s"] - first["start_s"] > 0.4


def test_a_server_that_is_not_there_is_a_failure_of_each_request() -> None:
    rows, _ = drive(f"http://127.0.0.1:{free_port()}", Stage("closed", concurrency=2, requests=3))
    assert [error(row) for row in rows] == [("connect", "Connection refused")] * 3
    assert [row["ttft_ms"] for row in rows] == [None] * 3


def test_an_unknown_host_is_refused() -> None:
    with pytest.raises(EndpointDown, match="host name is unknown"):
        drive("http://no-such-host.invalid:8600")


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
    assert row["ok"] is ok
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
    assert [row["prefill_tps"] for row in rows] == [3000.0, None]
    assert [row["cached_tokens"] for row in rows] == [0, 1]


def test_the_key_is_sent_and_never_told() -> None:
    def answer(peer: Peer) -> None:
        sent = peer.head.decode().partition("Authorization: Bearer ")[2].split("\r\n")[0]
        body = json.dumps({"error": {"message": f"bad key {sent}"}}).encode()
        peer.raw(b"HTTP/1.1 401 No\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    with serving(answer) as address:
        rows, _ = drive(address, api_key=KEY)
    assert error(rows[0]) == ("http_status", "HTTP 401: bad key ***")


# --- connections


def test_a_connection_serves_many_requests_where_the_server_lets_it() -> None:
    connections = set()

    def answer(peer: Peer) -> bool:
        connections.add(peer.line)
        peer.completion(1)
        peer.end()
        return True

    with serving(answer) as address:
        rows, _ = drive(address, Stage("closed", concurrency=1, requests=5))
    assert [row["ok"] for row in rows] == [True] * 5
    assert len(connections) == 1


@pytest.mark.parametrize("pause_s", [0.0, 0.05])
def test_a_server_that_hangs_up_after_each_answer_makes_no_failures(pause_s: float) -> None:
    def answer(peer: Peer) -> None:
        peer.completion(2)
        peer.end()
        time.sleep(pause_s)

    with serving(answer) as address:
        rows, _ = drive(address, Stage("closed", concurrency=3, requests=12))
    assert [row["error"] for row in rows] == [None] * 12
    assert sorted(row["index"] for row in rows) == list(range(12))


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        peer.raw(*(b"data: " + json.dumps(message).encode() + b"\n\n" for message in (token(1), token(2), stop(2))))

    row = one(answer)
    assert (row["ok"], row["output_tokens"]) == (True, 2)


def test_embeddings_are_one_document() -> None:
    def answer(peer: Peer) -> bool:
        body = json.dumps({"data": [{"embedding": [0.5] * 5000}], "usage": {"prompt_tokens": 9}}).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        peer.raw(head, body[:7], body[7:9000], body[9000:])
        return True

    row = one(answer, "/v1/embeddings", stream=False, prompt_tokens=9)
    assert (row["ok"], row["prompt_tokens"], row["ttft_ms"]) == (True, 9, None)
    assert row["total_ms"] > 0


def test_the_backend_behind_a_balancer_is_noted() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(EVENTS[:-2] + b"X-Backend: gpu2\r\n\r\n")
        peer.say(token(1), stop(1))
        peer.end()

    assert one(answer)["backend"] == "gpu2"


def test_servers_with_tls_are_measured_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    def answer(peer: Peer) -> bool:
        peer.completion(3)
        peer.end()
        return True

    with serving(answer, context) as address:
        refused, _ = drive(address)
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        trusted, _ = drive(address, Stage("closed", concurrency=2, requests=4))
    assert error(refused[0]) == ("connect", "TLS failed: CERTIFICATE_VERIFY_FAILED")
    assert [(row["ok"], row["output_tokens"]) for row in trusted] == [(True, 3)] * 4


# --- load


def quick(peer: Peer) -> bool:
    peer.completion(2)
    peer.end()
    return True


def slow(peer: Peer) -> bool:
    time.sleep(0.05)
    return quick(peer)


def test_rows_tell_phase_and_place_of_each_request() -> None:
    with serving(quick) as address:
        rows, watch = drive(
            address, Stage("closed", concurrency=2, requests=6, warmup=3), index=10, number=4, limits=Limits()
        )
    rows.sort(key=lambda row: row["index"])
    assert [row["index"] for row in rows] == list(range(10, 19))
    assert [row["phase"] for row in rows] == ["warmup"] * 3 + ["run"] * 6
    assert {row["stage"] for row in rows} == {4}
    assert rows[4]["key"] == "item-4"
    assert watch.stopped is None
    assert all(row["intended_s"] == row["start_s"] for row in rows)


def test_requests_of_the_ramp_are_on_top_of_those_that_count() -> None:
    with serving(slow) as address:
        rows, _ = drive(address, Stage("closed", concurrency=4, requests=10, ramp_s=0.3))
    phases = [row["phase"] for row in rows]
    assert phases.count("run") == 10
    assert phases.count("ramp") >= 4
    assert set(phases) == {"ramp", "run"}


def test_a_duration_ends_the_stage_and_what_is_under_way_is_finished() -> None:
    with serving(slow) as address:
        rows, watch = drive(address, Stage("closed", concurrency=2, duration_s=0.5))
    assert all(row["ok"] for row in rows)
    assert len(rows) >= 4
    assert max(row["start_s"] for row in rows) - watch.begun_s < 1  # the last may have been begun late


@pytest.mark.parametrize("rate", [{"mode": "closed", "concurrency": 1}, {"mode": "constant", "rate_per_s": 20}])
def test_a_duration_begins_after_the_warm_up(rate: dict[str, Any]) -> None:
    with serving(slow) as address:
        rows, watch = drive(address, Stage(**rate, warmup=20, duration_s=0.8))  # the warm-up takes longer
    rows.sort(key=lambda row: row["index"])
    assert [row["phase"] for row in rows[:20]] == ["warmup"] * 20
    assert len(rows) >= 23
    starts = [row["intended_s"] for row in rows if row["phase"] == "run"]
    assert starts[0] == watch.begun_s
    assert 0.3 < starts[-1] - starts[0] < 1.3


def test_the_users_of_two_processes_share_the_requests() -> None:
    with serving(slow) as address:
        rows, watch = drive(address, Stage("closed", concurrency=4, requests=16), processes=2)
    assert sorted(row["index"] for row in rows) == list(range(16))
    assert {row["worker"] for row in rows} == {0, 1}
    assert watch.processes == 2


def test_at_a_rate_latency_counts_from_when_a_request_was_due() -> None:
    """One worker thread: while the first request takes half a second, others wait though they were due."""
    busy = threading.Lock()

    def answer(peer: Peer) -> bool:
        with busy:
            if peer.number == 0:
                time.sleep(0.5)
            return quick(peer)

    with serving(answer) as address:
        rows, watch = drive(address, Stage("constant", rate_per_s=20, requests=6))
    rows.sort(key=lambda row: row["index"])
    steps = [later["intended_s"] - row["intended_s"] for row, later in itertools.pairwise(rows)]
    assert steps == pytest.approx([0.05] * 5, abs=1e-4)
    assert rows[1]["ttft_ms"] > 400
    assert all(row["late_ms"] >= 0 for row in rows)
    assert watch.in_flight_asked is None


def test_bursts_begin_together() -> None:
    with serving(quick) as address:
        rows, _ = drive(address, Stage("burst", rate_per_s=20, burst=3, requests=6))
    assert len({row["intended_s"] for row in rows}) == 2


def test_the_first_requests_at_a_rate_are_not_held_back_and_sent_together() -> None:
    with serving(quick) as address:
        rows, _ = drive(address, Stage("constant", rate_per_s=50, requests=12))
    starts = sorted(row["start_s"] for row in rows)
    assert starts[-1] - starts[0] > 0.05  # of the 0.22 s that they should take


def test_a_generator_that_begins_requests_late_is_not_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "MAX_BEGUN_LATE_P99_MS", -1.0)  # nothing can be as early as that
    with serving(quick) as address:
        _, at_a_rate = drive(address, Stage("constant", rate_per_s=50, requests=5))
        _, closed = drive(address, Stage("closed", concurrency=1, requests=5))
    assert any("the load generator did not keep up" in reason for reason in at_a_rate.reasons)
    assert not any("did not keep up" in reason for reason in closed.reasons)


def test_a_rate_stage_of_a_duration_begins_as_many_as_are_due() -> None:
    with serving(quick) as address:
        rows, watch = drive(address, Stage("constant", rate_per_s=50, duration_s=0.5), processes=2)
    assert len(rows) == 25
    assert watch.stopped is None


def test_the_stage_ends_when_there_is_enough() -> None:
    rows: list[Row] = []
    with serving(slow) as address:
        _, watch = drive(
            address, Stage("closed", concurrency=2, requests=100_000), on_rows=rows.extend, enough=lambda: len(rows) > 5
        )
    assert watch.stopped == "enough"
    assert 5 < len(rows) < 1000
    assert all(row["ok"] for row in rows)


def test_the_stage_ends_when_too_much_fails() -> None:
    def answer(peer: Peer) -> bool:
        if peer.number % 2:
            peer.raw(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
            return True
        return quick(peer)

    with serving(answer) as address:
        rows, watch = drive(address, Stage("closed", concurrency=1, requests=100_000), Limits(max_error_rate=0.2))
    assert watch.stopped == "errors"
    assert 10 <= len(rows) < 1000


def test_a_supply_that_ends_early_is_told() -> None:
    with serving(quick) as address:
        rows, watch = drive(address, Stage("closed", concurrency=2, requests=9), items=asked(count=4))
    assert (len(rows), watch.stopped) == (4, "exhausted")


def test_fewer_requests_than_users_make_the_stage_invalid() -> None:
    with serving(quick) as address:
        _, watch = drive(address, Stage("closed", concurrency=4, requests=3))
    assert watch.valid is False
    assert "there were 3 requests for 4 users" in watch.reasons


def test_a_request_of_each_user_makes_the_stage_invalid_too() -> None:
    with serving(quick) as address:
        _, watch = drive(address, Stage("closed", concurrency=4, requests=4))
    assert "each of 4 users sent one request: nothing but the first wave was measured" in watch.reasons


def answered(texts: Sequence[str], ending: str) -> bytes:
    return json.dumps({"said": [*texts, ending]}).encode()


def test_turns_of_a_conversation_know_the_answers_before_them() -> None:
    bodies: list[Any] = []

    def answer(peer: Peer) -> bool:
        bodies.append(json.loads(peer.body))
        peer.raw(EVENTS)
        peer.say(delta(content=f"answer to {bodies[-1]['said'][-1]}"), FINISH, DONE)
        peer.end()
        return True

    turns = tuple(Request(CHAT, functools.partial(answered, ending=name)) for name in ("one", "two", "three"))
    with serving(answer) as address:
        rows, _ = drive(address, Stage("closed", concurrency=1, requests=6), items=iter([Item(turns)] * 2))
    assert bodies[:3] == [
        {"said": ["one"]},
        {"said": ["answer to one", "two"]},
        {"said": ["answer to one", "answer to two", "three"]},
    ]
    assert [(row["conversation"], row["turn"]) for row in rows] == [(c, t) for c in range(2) for t in range(3)]
    assert "answer" not in rows[0]


def test_a_conversation_whose_turn_failed_is_given_up_and_its_user_goes_on() -> None:
    def answer(peer: Peer) -> bool:
        if peer.number == 0:
            peer.raw(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
            return True
        return quick(peer)

    turns = tuple(Request("/completion", b"{}") for _ in range(3))
    with serving(answer) as address:
        rows, _ = drive(address, Stage("closed", concurrency=1, requests=4), items=iter([Item(turns)] * 2))
    assert [(row["conversation"], row["turn"], row["ok"]) for row in rows] == [
        (0, 0, False), (1, 0, True), (1, 1, True), (1, 2, True),
    ]  # fmt: skip


def test_a_conversation_that_nobody_answers_is_not_asked_for_again_without_a_pause() -> None:
    turns = tuple(Request("/completion", b"{}") for _ in range(3))
    items = itertools.repeat(Item(turns))
    rows, _ = drive(f"http://127.0.0.1:{free_port()}", Stage("closed", concurrency=1, duration_s=1.0), items=items)
    assert {error(row)[0] for row in rows} == {"connect"}
    assert len(rows) <= 6  # a pause is a quarter of a second


def test_a_user_whose_connection_breaks_without_an_answer_pauses_too() -> None:
    with serving(lambda peer: None) as address:
        rows, _ = drive(address, Stage("closed", concurrency=1, duration_s=1.0))
    assert {error(row)[0] for row in rows} == {"disconnected"}
    assert len(rows) <= 6


def test_tokens_that_came_with_the_end_have_no_part_in_the_speed() -> None:
    def answer(peer: Peer) -> bool:
        peer.raw(EVENTS)
        peer.say(token(1))
        time.sleep(0.1)
        peer.say(token(2), stop(4))  # two more were held back
        peer.end()
        return True

    row = one(answer, output_tokens=4)
    assert row["output_tokens"] == 4
    assert row["decode_tps"] == pytest.approx(1000 / row["decode_ms"], rel=1e-4)


def test_the_wall_clock_plays_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(quick) as address:
        monkeypatch.setattr(time, "time", lambda: pytest.fail("the wall clock was asked"))
        rows, _ = drive(address, Stage("closed", concurrency=1, requests=3))
    assert all(row["ok"] for row in rows)


def test_ctrl_c_delivers_what_had_ended_and_leaves_no_process(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
        import json, sys, time
        from nexus_tasks.load import generator
        def rows(batch):
            for row in batch:
                print(json.dumps(row), flush=True)
        item = generator.Item((generator.Request("/completion", b"{}"),))
        try:
            generator.run(sys.argv[1], None, iter(lambda: item, None),
                          generator.Stage("closed", concurrency=2, duration_s=60), generator.Limits(), index=0,
                          origin=time.perf_counter(), on_rows=rows)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """)
    )
    with (
        serving(slow) as address,
        subprocess.Popen(
            [sys.executable, program, address], stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ) as process,
    ):  # fmt: skip
        assert process.stdout
        first = json.loads(process.stdout.readline())
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        *rows, last = process.stdout.read().splitlines()
    assert process.returncode == 0
    assert last == "interrupted"
    assert first["ok"] is True
    assert all(json.loads(row)["ok"] for row in rows)


def test_rows_that_came_while_others_were_written_are_delivered_after_ctrl_c() -> None:
    batches: list[list[Row]] = []

    def write(rows: list[Row]) -> None:
        batches.append(rows)
        if len(batches) == 1:
            time.sleep(0.5)  # meanwhile requests end
            signal.raise_signal(signal.SIGINT)

    with serving(slow) as address, pytest.raises(KeyboardInterrupt):
        drive(address, Stage("closed", concurrency=2, duration_s=60), on_rows=write)
    assert len(batches) == 2
    assert len(batches[1]) >= 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# --- a real llama-server


@pytest.mark.parametrize("processes", [1, 2])
def test_a_real_server_is_measured_as_it_measures_itself(server: RunningServer, processes: int) -> None:
    def items() -> Iterator[Item]:
        for number in range(100):
            body = {"prompt": [5 + number] * 20, "n_predict": 12, "stream": True, "ignore_eos": True, "temperature": 0}
            yield Item((Request("/completion", json.dumps(body).encode(), 20, 12, exact_output=True),))

    rows, _ = drive(server.base_url, Stage("closed", concurrency=2, requests=6), items=items(), processes=processes)
    assert [row["error"] for row in rows] == [None] * 6
    for row in rows:
        assert (row["prompt_tokens"], row["output_tokens"], row["finish_reason"]) == (20, 12, "limit")
        assert len(row["itl_ms"]) == 11
        assert row["server"]["predicted_n"] == 12
        assert sum(row["itl_ms"]) == pytest.approx(row["decode_ms"], abs=0.02)
        assert 0 < row["ttft_ms"] < row["total_ms"]
        assert row["queue_ms"] == pytest.approx(row["ttft_ms"] - row["server"]["prompt_ms"], abs=0.01)


def test_a_chat_of_a_real_server_has_an_answer(server: RunningServer) -> None:
    body = {
        "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "stream": True, "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    item = Item((Request(CHAT, json.dumps(body).encode(), None, 8, exact_output=True),))
    rows, _ = drive(server.base_url, items=iter([item]), limits=Limits(keep_answers=True))
    assert rows[0]["error"] is None
    assert rows[0]["output_tokens"] == 8
    assert rows[0]["answer"]
    assert rows[0]["backend"]
