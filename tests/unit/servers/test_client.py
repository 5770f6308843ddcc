"""Clients of servers: what they send, and that no answer is without an end. Servers are raw sockets."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from nexus_tasks.core.errors import EndpointDown, NotOpenAI, UsageError
from nexus_tasks.servers import client, route, transport
from tests.conftest import ROOT


def test_the_key_is_in_the_authorization_header_and_in_no_repr() -> None:
    with client.connect("http://gpu1:8600", "sk-secret") as connected:
        assert connected.headers["authorization"] == "Bearer sk-secret"
        assert "sk-secret" not in repr(connected) + repr(connected.headers)


@pytest.mark.parametrize("key", ["sk-secret\n", " sk-secret", "sk-geheim-ß"])
def test_a_key_that_no_header_can_carry_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(UsageError) as caught:
        client.connect("http://gpu1:8600", key)
    assert key.strip() not in caught.value.message + caught.value.hint


@contextlib.contextmanager
def saying(*pieces: bytes, then: Callable[[socket.socket], None] = lambda _: None) -> Iterator[tuple[str, list[bytes]]]:
    """A server that says so to each request; its address, and what it was sent."""
    seen: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = listener.accept()
                with contextlib.suppress(OSError), line:
                    seen.append(line.recv(65536))
                    for piece in pieces:
                        line.sendall(piece)
                    then(line)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(timeout=5)


def asked(way: str | route.Route, path: str = "/", timeout_s: float = 30.0) -> int:
    """The status of one answer."""
    with client.connect(way, None, timeout_s=timeout_s) as connected:
        return client.ask(connected, "GET", path).status_code


def test_a_path_goes_out_as_it_was_given() -> None:
    with saying(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as (address, seen):
        assert asked(f"{address}/a%2Fb%0d%0ac/v1", "/v1/models") == 200
    assert seen[0].startswith(b"GET /a%2Fb%0d%0ac/v1/models HTTP/1.1\r\nHost: 127.0.0.1:")


def test_no_proxy_and_no_password_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    monkeypatch.setattr(route, "leads_to_loopback", lambda _: False)
    with saying(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as (address, _):
        assert asked(address) == 200
    with pytest.raises(EndpointDown, match="connection refused") as caught:
        asked(address)
    assert caught.value.hint.endswith("http_proxy is not used: measurements go straight to the server")


def test_the_first_address_that_takes_it_is_used() -> None:
    with saying(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as (address, seen):
        way = route.to(address.replace("127.0.0.1", "gpu1.invalid"))
        assert asked(dataclasses.replace(way, addresses=("127.0.0.2", "127.0.0.1"))) == 200
    assert b"Host: gpu1.invalid:" in seen[0]


def dripping(line: socket.socket) -> None:
    while True:
        line.sendall(b"x")
        time.sleep(0.02)


def flooding(line: socket.socket) -> None:
    while True:
        line.sendall(b"x" * 65536)


def informing(line: socket.socket) -> None:
    while True:
        line.sendall(b"HTTP/1.1 102 Processing\r\n\r\n")
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("head", "then", "error", "message"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", dripping, EndpointDown, "accepts connections but does not answer /x"),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 99999999\r\n\r\n", dripping, EndpointDown, "does not answer /x"),
        (b"HTTP/1.1 200 OK\r\nX: ", dripping, EndpointDown, "does not answer /x"),
        (b"", informing, EndpointDown, "does not answer /x"),
        (b"HTTP/1.1 200 OK\r\n\r\n", flooding, NotOpenAI, "the answer is larger than"),
    ],
)
def test_no_answer_is_without_an_end(
    head: bytes,
    then: Callable[[socket.socket], None],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "MAX_DOCUMENT_BYTES", 1 << 22)
    timeout_s = 1.0 if then is not flooding else 60.0
    began = time.monotonic()
    with saying(head, then=then) as (address, _), pytest.raises(error, match=message):
        asked(address, "/x", timeout_s)
    assert time.monotonic() - began < 30


def test_an_answer_that_is_compressed_unasked_is_refused_before_it_is_read() -> None:
    body = gzip.compress(b"0" * (1 << 20))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    told = "the answer is in gzip, which nobody asked for"
    with saying(head, body) as (address, _), pytest.raises(NotOpenAI, match=told):
        asked(address)


@pytest.mark.parametrize("header", [{"X-Y": "a\r\nZ: b"}, {"X\n": "a"}, {"X": "ä"}])
def test_a_header_that_would_end_a_line_is_refused(header: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="headers must be printable ASCII"):
        client.request_headers(None, header)


def test_servers_are_talked_to_in_one_way() -> None:
    """By client.connect and by the sender processes, both of which go the way of a Route."""
    allowed = {
        "servers/client.py", "servers/transport.py", "servers/route.py", "load/sender/pool.py", "core/tls.py",
        "servers/certificates.py", "fleet/targets.py",
        "batches/shards/ray_engine.py",  # a Ray cluster, which is no server of models
    }  # fmt: skip
    ways = (
        "httpx.Client(",
        "httpx.get(",
        "httpx.post(",
        "urlopen(",
        "create_connection(",
        "getaddrinfo(",
        "create_default_context(",
    )
    for path in (ROOT / "nexus_tasks").rglob("*.py"):
        name = path.relative_to(ROOT / "nexus_tasks").as_posix()
        if name not in allowed and not name.startswith(("hostlib/", "model_store/")):
            used = [way for way in ways if way in path.read_text()]
            assert not used, f"{name}: {used} goes another way than servers/route.py"
