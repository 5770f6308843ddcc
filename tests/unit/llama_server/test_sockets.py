"""Who listens where, and who can't: real sockets on one port of several addresses."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from plugins.module_utils.hostlib.instances import Instance
from plugins.module_utils.llama_server.client import Server, Unanswered
from plugins.module_utils.llama_server.sockets import end_of, listeners, rivals
from tests.conftest import free_port, wait_for
from tests.port_takers import running

V4, V6 = "0.0.0.0", "::"  # noqa: S104 - of the test's own, without a service behind it
ONLY_V6 = "only ::"


def listening(address: str, port: int) -> socket.socket:
    """A socket that listens; ``ONLY_V6`` is one that takes nothing of IPv4."""
    place = V6 if address == ONLY_V6 else address
    listener = socket.socket(socket.AF_INET6 if ":" in place else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address != V6)
    try:
        listener.bind((place, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


@pytest.mark.parametrize(
    ("others", "asked", "who"),
    [
        (["127.0.0.1", "127.0.0.2"], "127.0.0.1", {"127.0.0.1"}),
        (["127.0.0.1", ONLY_V6], "127.0.0.1", {"127.0.0.1"}),
        (["127.0.0.1", "::1"], "127.0.0.1", {"127.0.0.1"}),
        (["127.0.0.1", "::1"], "::1", {"::1"}),
        ([V4, ONLY_V6], "127.0.0.1", {V4}),
        ([V4, "::1"], "::1", {"::1"}),
        ([V4], "::1", set()),
        ([V6], "127.0.0.1", {V6}),
        ([V6], "::1", {V6}),
        (["127.0.0.2"], "127.0.0.1", set()),
        ([], "127.0.0.1", set()),
        ([V4], "no.such.host.invalid", set()),
    ],
)
def test_who_listens_is_who_gets_the_connections(others: list[str], asked: str, who: set[str]) -> None:
    port = free_port()
    with contextlib.ExitStack() as stack:
        for address in others:
            stack.enter_context(listening(address, port))
        assert {entry.local[0] for entry in listeners(asked, port)} == {end_of(address, 0)[0] for address in who}


@pytest.mark.parametrize(
    ("others", "asked"),
    [
        (["127.0.0.1"], "127.0.0.1"), (["127.0.0.1"], "127.0.0.2"), (["127.0.0.1"], V4), (["127.0.0.1"], "::1"),
        (["127.0.0.1", "127.0.0.2"], V4), (["127.0.0.1", "::1"], V4), (["::1"], V4), (["::1"], V6),
        ([ONLY_V6, "127.0.0.1"], V4), ([ONLY_V6, "127.0.0.1"], "127.0.0.2"), ([V6], V4), ([V6], "127.0.0.1"),
        ([V4], "127.0.0.1"), ([V4], "::1"), (["127.0.0.1"], V6), ([], V4),
    ],
)  # fmt: skip
def test_rivals_are_those_beside_whom_nobody_can_listen(others: list[str], asked: str) -> None:
    port = free_port()
    with contextlib.ExitStack() as stack:
        for address in others:
            stack.enter_context(listening(address, port))
        found = rivals(asked, port)
        try:
            stack.enter_context(listening(asked, port))
            can_listen = True
        except OSError:
            can_listen = False
        assert bool(found) is not can_listen
    assert len({entry.inode for entry in found}) == len(found)


@contextlib.contextmanager
def stuck(address: str, port: int) -> Iterator[int]:
    """A process that listens and takes no connection, as one that has too much to do."""

    def listen() -> None:
        with listening(address, port):
            time.sleep(600)

    with running(listen) as pid:
        wait_for(lambda: rivals(address, port), "the listener")
        os.kill(pid, signal.SIGSTOP)
        yield pid


@pytest.mark.parametrize(
    ("own", "other", "asked"),
    [
        ("127.0.0.1", "127.0.0.2", "127.0.0.1"), ("127.0.0.1", ONLY_V6, "127.0.0.1"), (V4, ONLY_V6, "127.0.0.1"),
        ("::1", V4, "::1"), ("::1", "127.0.0.1", "::1"),
    ],
)  # fmt: skip
def test_a_process_at_another_address_is_not_taken_for_who_answers(own: str, other: str, asked: str) -> None:
    port = free_port()
    url = f"http://[{asked}]:{port}" if ":" in asked else f"http://{asked}:{port}"
    with stuck(own, port) as pid, running(time.sleep, 600), listening(other, port), pytest.raises(Unanswered):
        Server(Instance(name="main", local_url=url), pid).ask("/health", timeout=2.5)
