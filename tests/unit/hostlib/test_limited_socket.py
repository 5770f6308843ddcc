"""Answers without an end: who asks is done after the time that it gives, whatever comes."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from plugins.module_utils.hostlib import limited_socket
from plugins.module_utils.hostlib.http_client import open_address
from plugins.module_utils.hostlib.instances import Instance
from plugins.module_utils.hostlib.limited_socket import AnswerTooLong, limit
from plugins.module_utils.llama_server.client import Server, Unanswered
from plugins.module_utils.llama_server.runtimes import supervisord
from tests.conftest import ROOT
from tests.unit.hostlib.test_http_client import OWN, asks

SECONDS = 0.3
GENEROUS = 30.0  # a busy machine is slow, and who waits for ever is not done then either
HEAD = b"HTTP/1.1 200 OK\r\n"
DRIPS: dict[str, tuple[bytes, bytes]] = {
    "status line": (b"", b"H"),
    "headers": (HEAD, b"a"),
    "body": (HEAD + b"Content-Length: 1000000\r\n\r\n", b"a"),
    "body without a length": (HEAD + b"\r\n", b"a"),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}
FLOODS = {name: DRIPS[name] for name in ("body without a length", "chunks", "interim answers")}
FLOODS["promised body"] = (HEAD + b"Content-Length: 99999999999\r\n\r\n", b"a")


@contextlib.contextmanager
def answering(begin: bytes, pieces: Iterable[bytes], pause: float, path: str | None = None) -> Iterator[int]:
    """A server that begins an answer and goes on with pieces, each after a pause, until who asked is gone.

    Yields its port, 0 where ``path`` is that of a unix socket.
    """
    over = threading.Event()
    listener = socket.socket(socket.AF_UNIX) if path else socket.socket()
    address: Any = path or ("127.0.0.1", 0)
    listener.bind(address)
    listener.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(begin)
                for piece in pieces:
                    connection.sendall(piece)
                    if over.wait(pause):
                        break

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield 0 if path else listener.getsockname()[1]
    finally:
        over.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(GENEROUS)


def server_at(port: int) -> Server:
    server = Server(Instance(name="main", local_url=f"http://127.0.0.1:{port}"), None)
    setattr(server, "_is_ours", lambda connection, timeout: False)  # noqa: B010 - it is this process's own
    return server


def by_client(port: int) -> object:
    return server_at(port).ask("/slots", timeout=SECONDS)


def by_client_with_meanwhile(port: int) -> object:
    return server_at(port).ask("/completion", body={"prompt": "a"}, timeout=SECONDS, meanwhile=lambda: None)


def by_http_client(port: int) -> object:
    with open_address(f"http://127.0.0.1:{port}/", timeout=SECONDS) as answer:
        return answer.read()


ASKERS = pytest.mark.parametrize(
    "ask", [by_client, by_client_with_meanwhile, by_http_client], ids=["client", "meanwhile", "http_client"]
)


@ASKERS
@pytest.mark.parametrize("what", DRIPS)
def test_a_server_that_drips_is_not_waited_for(ask: Callable[[int], object], what: str) -> None:
    begin, piece = DRIPS[what]
    began = time.monotonic()
    with (
        answering(begin, itertools.repeat(piece), SECONDS / 10) as port,
        pytest.raises((TimeoutError, Unanswered), match=r"timed out|no answer within 0 s"),
    ):
        ask(port)
    assert time.monotonic() - began < GENEROUS


@ASKERS
@pytest.mark.parametrize("what", FLOODS)
def test_an_answer_without_an_end_is_not_read_to_it(
    ask: Callable[[int], object], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limited_socket.limit, "__defaults__", (2 << 20,))
    monkeypatch.setattr(open_address, "__kwdefaults__", {**(open_address.__kwdefaults__ or {}), "max_bytes": 2 << 20})
    monkeypatch.setattr("tests.unit.hostlib.test_limited_socket.SECONDS", GENEROUS)
    begin, piece = FLOODS[what]
    with (
        answering(begin, itertools.repeat(piece * (65536 // len(piece))), 0) as port,
        pytest.raises(AnswerTooLong, match="the answer is longer than 2 MiB"),
    ):
        ask(port)


@pytest.mark.parametrize(
    ("pause", "is_read"), [(SECONDS / 10, False), (0, True)], ids=["slower than its pace", "as fast as it can"]
)
def test_a_stream_takes_its_time_as_long_as_it_goes_on(pause: float, is_read: bool) -> None:
    count = 3 * (limited_socket.MAX_BYTES >> 20)  # beyond what an answer may have
    piece = b"a" if pause else b"a" * (1 << 20)
    with answering(HEAD + b"\r\n", itertools.repeat(piece, count), pause) as port:
        patience = SECONDS if pause else GENEROUS
        address = f"http://127.0.0.1:{port}/"
        with open_address(address, timeout=patience, max_bytes=None) as answer:
            if is_read:
                assert sum(map(len, iter(lambda: answer.read(1 << 20), b""))) == count << 20
            else:
                with pytest.raises(TimeoutError):
                    answer.read(1 << 20)


def test_a_stream_outlasts_its_timeout() -> None:
    with (
        answering(HEAD + b"\r\n", itertools.repeat(b"a" * 1024, 30), 0.1) as port,
        open_address(f"http://127.0.0.1:{port}/", timeout=2, max_bytes=None) as answer,
    ):
        assert len(answer.read()) == 30 * 1024


def test_a_supervisord_that_drips_is_not_waited_for(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisord, "STOP_SECONDS", SECONDS)
    path = f"{tmp_path}/supervisor.sock"
    with answering(HEAD, itertools.repeat(b"a"), SECONDS / 10, path), pytest.raises(TimeoutError):
        supervisord.connect(path).supervisor.getState()


@pytest.mark.parametrize(
    "text",
    [b"[" * 200_000, b'{"a":' * 200_000, b"9" * 200_000, b"[" + b"9" * 200_000 + b"]", b"\xff\xfe", b""],
    ids=["lists", "objects", "digits", "digits in a list", "no text", "nothing"],
)
def test_json_that_is_made_to_break_who_reads_it_is_none(text: bytes) -> None:
    with answering(HEAD + b"Content-Length: %d\r\n\r\n" % len(text), [text], 0) as port:
        assert by_client(port) == (200, {})


def test_the_rest_of_a_connection_is_as_it_was() -> None:
    with answering(HEAD + b"Content-Length: 2\r\n\r\n", [b"ok"], 0) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=GENEROUS)
        connection.connect()
        limit(connection, GENEROUS)
        connection.request("GET", "/")
        assert connection.sock.getpeername() == ("127.0.0.1", port)
        assert connection.getresponse().read() == b"ok"
        connection.close()


# --- Who may open connections ---

CLIENT = "plugins/module_utils/llama_server/client.py"
UNIX = "plugins/module_utils/llama_server/runtimes/supervisord.py"
SILENT = "plugins/module_utils/service/ports.py"  # connects, and reads nothing


def test_connections_to_servers_are_opened_where_they_are_limited_and_nowhere_else() -> None:
    places = ("plugins/**/*.py", "roles/*/files/*.py")
    files = {str(path.relative_to(ROOT)): path.read_text() for place in places for path in ROOT.glob(place)}
    opening = {name for name, source in files.items() if asks(source)}
    assert opening == {OWN, CLIENT, UNIX, SILENT}
    assert all("limit(" in files[name] for name in opening - {SILENT})
