"""Another user of the machine who takes a port while it is free, and says 200 to everything."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import wait_for

NOBODY = 65534
ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"status":"ok"}'


@dataclass(frozen=True)
class Stranger:
    """Who listens, and what he was told."""

    pid: int
    notes: Path

    def listens(self) -> bool:
        """Whether he has got the port."""
        return self.notes.read_bytes().startswith(b"listening\n")

    def heard(self) -> bytes:
        """All requests that reached him, each with its headers."""
        return self.notes.read_bytes().partition(b"listening\n")[2]


@contextlib.contextmanager
def waiting_for(port: int, notes: Path, *, address: str = "127.0.0.1", shared: bool = False) -> Iterator[Stranger]:
    """A process that takes the port as soon as nobody else has it, as another user where the tests are root.

    Args:
        port: which one.
        notes: a file that does not exist.
        address: where it listens.
        shared: whether it takes the port along with others of its user, which it then stays.
    """
    notes.touch()
    process = multiprocessing.get_context("fork").Process(target=_take, args=(address, port, notes, shared))
    process.start()
    try:
        yield Stranger(process.pid or 0, notes)
    finally:
        process.kill()
        process.join()


def _take(address: str, port: int, notes: Path, shared: bool) -> None:
    with notes.open("ab", buffering=0) as pad:
        if os.geteuid() == 0 and not shared:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        while True:
            with contextlib.suppress(OSError):
                listener.bind((address, port))
                listener.listen(64)
                break
        pad.write(b"listening\n")
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(5)
                with contextlib.suppress(OSError):
                    pad.write(connection.recv(65536) + b"\n")
                    connection.sendall(ANSWER)


@contextlib.contextmanager
def listening(port: int, notes: Path, *, address: str = "127.0.0.1", shared: bool = False) -> Iterator[Stranger]:
    """The same, once it has the port."""
    with waiting_for(port, notes, address=address, shared=shared) as stranger:
        wait_for(stranger.listens, "the stranger")
        yield stranger


@contextlib.contextmanager
def running(target: Callable[..., None], *arguments: Any) -> Iterator[int]:
    """A process of the tests' own; the block gets its id."""
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    try:
        yield process.pid or 0
    finally:
        process.kill()
        process.join()
