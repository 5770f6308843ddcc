"""A server that dies over a request, behind the gateway: who is asked again, and who is told."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from nexus_tasks.load.selfcheck.mock_server import mock_server
from tests.conftest import free_port, wait_for
from tests.support.haproxy import needs_haproxy
from tests.support.mock_gateway import MODEL, MockGateway, gateway_before

pytestmark = needs_haproxy


class Dying(BaseHTTPRequestHandler):
    """Healthy, until it is asked something."""

    def do_GET(self) -> None:
        self.send_response(httpx.codes.OK)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.server_close()  # nobody gets to it any more
        self.close_connection = True  # and this one gets no answer

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def dying_server(port: int) -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", port), Dying)

    def serve() -> None:
        while server.fileno() >= 0:
            server.handle_request()

    thread = threading.Thread(target=serve)
    thread.start()
    yield server
    thread.join(60)
    assert not thread.is_alive(), "nobody asked it"


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[MockGateway]:
    folder = tmp_path_factory.mktemp("retries")
    with (
        mock_server(slots=4) as sound,
        gateway_before(folder / "fleet", [f"http://127.0.0.1:{port}", sound], slots=4, affinity=False) as gateway,
    ):
        yield gateway


def answers_while_one_dies(gateway: MockGateway, port: int, *, stream: bool) -> list[httpx.Response]:
    """Answers to as many requests as it takes until the one that dies was asked."""
    body = {"model": MODEL, "messages": [], "max_tokens": 2, "stream": stream}
    got: list[httpx.Response] = []

    def is_dead() -> bool:
        got.append(httpx.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=60))
        return server.fileno() < 0

    with dying_server(port) as server:
        wait_for(is_dead, "a request to it")
    return got


def test_a_whole_answer_is_asked_for_again_at_another_server(gateway: MockGateway, port: int) -> None:
    answers = answers_while_one_dies(gateway, port, stream=False)
    assert {answer.status_code for answer in answers} == {httpx.codes.OK}


def test_a_stream_is_told_that_its_server_died(gateway: MockGateway, port: int) -> None:
    *others, last = answers_while_one_dies(gateway, port, stream=True)
    assert {answer.status_code for answer in others} <= {httpx.codes.OK}
    assert (last.status_code, last.json()["error"]["type"]) == (httpx.codes.BAD_GATEWAY, "server_error")
