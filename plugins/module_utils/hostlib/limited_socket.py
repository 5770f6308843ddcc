"""Answers that end: what is read from a server is over at a moment and at a number of bytes.

    connection.connect()
    limit(connection, 5)                    # seconds for the request and its whole answer
    connection.request("GET", "/slots")     # socket.timeout or AnswerTooLong, whatever the server does

The timeout of a socket is for one read: who sends a byte before each of them ends has no end. Python 3.9's standard
library only.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Any, cast

MAX_BYTES = 32 << 20  # what llama-server says of itself, with a chat template and many models, is far less
PACE_BYTES = 1024  # the least of a stream in the time that it is given


class AnswerTooLong(OSError):
    """A server says more than it may."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the answer is longer than {max_bytes >> 20} MiB")


class LimitedSocket:
    """A connected socket that is written to and read from for a time, and that gives a number of bytes at most.

    Args:
        sock: plain or with TLS.
        seconds: for all that comes from now on; of a stream for each ``PACE_BYTES`` of it.
        max_bytes: None for a stream, which has no end of its own and may take as long as it goes on.
    """

    def __init__(self, sock: socket.socket, seconds: float, max_bytes: int | None = MAX_BYTES) -> None:
        self._sock, self._max_bytes = sock, max_bytes
        self._count = self._paced = 0
        self.renew(seconds)

    def renew(self, seconds: float) -> None:
        """Begin the time anew; the bytes that came count on."""
        self._seconds, self._deadline = seconds, time.monotonic() + seconds

    def sendall(self, content: Any) -> None:
        self._have_time()
        self._sock.sendall(content)

    def makefile(self, mode: str, *_: Any, **__: Any) -> io.BufferedReader:
        """The stream that http.client reads an answer from."""
        return _File(_Reader(self, cast(io.RawIOBase, self._sock.makefile("rb", buffering=0))), self._max_bytes)

    def read_into(self, raw: io.RawIOBase, buffer: Any) -> int:
        """Read once from the socket's own file."""
        self._have_time()
        count = raw.readinto(buffer) or 0
        self._count += count
        if self._max_bytes is None and self._count - self._paced >= PACE_BYTES:
            self._paced = self._count
            self.renew(self._seconds)
        if self._max_bytes is not None and self._count > self._max_bytes:
            raise AnswerTooLong(self._max_bytes)
        return count

    def _have_time(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout("timed out")
        self._sock.settimeout(left)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _Reader(io.RawIOBase):
    """The file of a socket, as LimitedSocket reads it."""

    def __init__(self, owner: LimitedSocket, raw: io.RawIOBase) -> None:
        super().__init__()
        self._owner, self._raw = owner, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._owner.read_into(self._raw, buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _File(io.BufferedReader):
    """The same for http.client, which has memory for all the bytes that a server promises before it reads them."""

    def __init__(self, raw: _Reader, max_bytes: int | None) -> None:
        super().__init__(raw)
        self._max_bytes = max_bytes

    def read(self, size: int | None = -1) -> bytes:
        if self._max_bytes is not None and size is not None and size > self._max_bytes:
            raise AnswerTooLong(self._max_bytes)
        return super().read(size)


def limit(connection: http.client.HTTPConnection, seconds: float, max_bytes: int | None = MAX_BYTES) -> None:
    """Have what an open connection is asked answered within a time and a number of bytes, as LimitedSocket has it.

    Beyond them socket.timeout and AnswerTooLong are raised by whatever reads.
    """
    connection.sock = cast(socket.socket, LimitedSocket(connection.sock, seconds, max_bytes))
