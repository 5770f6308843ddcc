"""The exporter and who only connects: threads are few, and scrapes are answered all the while."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import psutil
import pytest

from tests import exporter
from tests.conftest import free_port, wait_for

THREADS = 40  # its own, and those of as many connections as it takes


class Idle:
    """Connections over which nothing, or too little, is asked."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.sockets: list[socket.socket] = []

    def connect(self, count: int, begin: bytes = b"") -> None:
        for _ in range(count):
            one = socket.create_connection(("127.0.0.1", self.port), timeout=60)
            one.sendall(begin)
            self.sockets.append(one)

    def ended(self) -> int:
        """How many the exporter has hung up on."""
        ended = 0
        for one in self.sockets:
            one.setblocking(False)
            try:
                ended += one.recv(1000) == b""
            except BlockingIOError:
                pass
            except OSError:
                ended += 1
        return ended


@pytest.fixture
def running() -> Iterator[tuple[int, psutil.Process]]:
    port = free_port()
    with exporter.run("--port", str(port)) as process:
        try:
            wait_for(lambda: scraped(port), "the exporter")
            yield port, psutil.Process(process.pid)
        finally:
            process.kill()


def scraped(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text.startswith("# HELP llama_nexus")
    return False


@pytest.fixture
def idle(running: tuple[int, psutil.Process]) -> Iterator[Idle]:
    them = Idle(running[0])
    yield them
    for one in them.sockets:
        one.close()


@pytest.mark.parametrize("begin", [b"", b"GET /metrics HTTP/1.1\r\nHost: a\r\n"], ids=["nothing", "half a request"])
def test_connections_that_ask_nothing_keep_no_threads_and_no_scrape_waits(
    running: tuple[int, psutil.Process], idle: Idle, begin: bytes
) -> None:
    port, process = running
    idle.connect(250, begin)
    assert scraped(port)
    idle.connect(250, begin)
    assert scraped(port)
    wait_for(lambda: process.num_threads() <= THREADS, "an end of the threads")
    assert scraped(port)
    wait_for(lambda: idle.ended() == len(idle.sockets), "an end of all connections")
    wait_for(lambda: process.num_threads() < 10, "an end of all threads")
    assert scraped(port)


def test_a_connection_that_drips_ends_in_time(running: tuple[int, psutil.Process], idle: Idle) -> None:
    port, _ = running
    idle.connect(1, b"GET /metrics HTTP/1.1\r\n")
    over = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError):
            while not over.wait(0.2):
                idle.sockets[0].sendall(b"a")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        began = time.monotonic()
        wait_for(lambda: idle.ended() == 1, "its end")
        assert time.monotonic() - began > 5  # and not at once: a slow client is no attack
    finally:
        over.set()
        thread.join()
    assert scraped(port)
