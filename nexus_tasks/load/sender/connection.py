"""A connection to the server: one HTTP request at a time, each piece of its answer stamped and kept.

Of HTTP it reads the head, and looks at a piece's last bytes for the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

import httptools

from nexus_tasks.load.sender.protocol import Ask

if TYPE_CHECKING:
    from nexus_tasks.load.sender.pool import Pool

NO_ANSWER = "the server closed the connection without an answer"
_END = b"0\r\n\r\n"
_HANGS_UP_S = 1.0
"""A connection that is closed so soon after an answer shows that the server always does it."""
_UNTIL_CLOSED, _CHUNKED = -1, -2


class Failure(Exception):
    """The end of a request before that of its answer."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class Transfer:
    """A request on its way, and what is known of it."""

    __slots__ = ("ask", "begun", "retried", "sent")

    def __init__(self, ask: Ask, begun: float) -> None:
        self.ask = ask
        self.begun = begun
        self.sent = begun
        self.retried = False


class Connection(asyncio.Protocol):
    """A connection to the server; one request at a time."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.transport: asyncio.WriteTransport | None = None
        self.transfer: Transfer | None = None
        self.times: list[float] = []
        self.parts: list[bytes] = []
        self.used = 0  # answers that it brought
        self.freed = 0.0  # when the last of them ended
        self.packed = 0  # pieces of the present answer that were handed on already
        self.last = 0.0  # arrival of the last of those
        self.status = 0
        self.keeps_alive = False
        self.closing = False
        self.retry_after = 0.0
        self._missing = _UNTIL_CLOSED  # or the length of the body, in bytes
        self._seen = 0
        vars(self)["data_received"] = self._receiver()  # a closure is the cheapest there is
        self.look_closely = True

    def _receiver(self) -> Callable[[bytes], None]:
        stamp, keep = self.times.append, self.parts.append

        def data_received(data: bytes) -> None:
            stamp(perf_counter())
            keep(data)
            if data.endswith(_END) or len(data) < 5 or self.look_closely:
                self._look()

        return data_received

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]  # uvloop's classes are not asyncio's

    def send(self, transfer: Transfer) -> None:
        """Send a request; the connection must be idle."""
        self.transfer = transfer
        self.times.clear()
        self.parts.clear()
        self.packed, self._seen, self._missing = 0, 0, _UNTIL_CLOSED
        self.status = 0
        self.look_closely = True
        ask = transfer.ask
        config = self.pool.config
        head = b"POST %s%s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n" % (
            config.prefix.encode(), ask.path.encode(), config.head, len(ask.body)
        )  # fmt: skip
        message = head + ask.body
        transfer.sent = perf_counter()
        if self.transport:
            self.transport.write(message)

    def silent_since(self) -> float:
        """The moment of the last news; comments, which keep connections alive, are none."""
        for moment, part in zip(reversed(self.times), reversed(self.parts), strict=True):
            if not is_comment(part):
                return moment
        if self.packed:
            return self.last
        return self.transfer.sent if self.transfer else 0.0

    def check_end(self) -> None:
        """Look for the end where nothing called for it: an end may come in two pieces."""
        if self.parts and not self.look_closely:
            self._look()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser of heads."""
        name = name.lower()
        if name == b"content-length":
            with contextlib.suppress(ValueError):
                self._missing = int(value)
        elif name == b"transfer-encoding" and b"chunked" in value.lower():
            self._missing = _CHUNKED
        elif name == b"retry-after":
            with contextlib.suppress(ValueError):
                self.retry_after = max(float(value), 0.0)

    def _look(self) -> None:
        """Note the end of the answer where it is there."""
        if self.transfer is None:
            if self.transport:
                self.transport.abort()  # bytes that nobody asked for
            return
        if self.look_closely and self.status == 0 and not self._read_head():
            return
        if self._missing >= 0:
            if sum(map(len, self.parts)) - self._seen >= self._missing:
                self._ended()
        elif self._missing == _CHUNKED and b"".join(self.parts[-4:]).endswith(b"\r\n" + _END):
            self._ended()

    def _read_head(self) -> bool:
        """Read status and headers once they are whole; True then."""
        raw = b"".join(self.parts)
        end = raw.find(b"\r\n\r\n") + 4
        if end < 4:
            if len(raw) > 1 << 20:
                self.fail(Failure("protocol", "no HTTP head within a megabyte"))
            return False
        self.retry_after = 0.0
        parser = httptools.HttpResponseParser(self)
        try:
            parser.feed_data(raw[:end])
            self.status = parser.get_status_code()
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.fail(Failure("protocol", f"not HTTP: {error}"))
            return False
        self.keeps_alive = parser.should_keep_alive() and self._missing != _UNTIL_CLOSED
        self._seen = end
        self.look_closely = self._missing >= 0
        return True

    def _ended(self) -> None:
        transfer, self.transfer = self.transfer, None
        self.used += 1
        self.freed = perf_counter()
        if transfer:
            self.pool.ended(self, transfer, None)

    def fail(self, failure: Failure) -> None:
        """Give the present request up, and the connection with it."""
        transfer, self.transfer = self.transfer, None
        if self.transport:
            self.transport.abort()
        if transfer:
            self.keeps_alive = False
            self.pool.ended(self, transfer, failure)

    def connection_lost(self, error: Exception | None) -> None:
        """Decide what the loss means for the present request."""
        pool, transfer = self.pool, self.transfer
        self.transport = None
        pool.forget(self)
        with contextlib.suppress(KeyError):
            del vars(self)["data_received"]  # the closure knows this connection: they would never be freed
        if self.used and not self.closing and not self.times and perf_counter() - self.freed < _HANGS_UP_S:
            pool.hangs_up = True
        if transfer is None:
            return
        self.transfer = None
        if self.used and not self.times and not transfer.retried:
            # The server had closed before it saw the request: that is between answers, not its failure.
            transfer.retried = True
            pool.connect(transfer)
        elif error is None:
            # The bytes tell whether that was an end; an answer without a length ends so.
            pool.ended(self, transfer, None if self.times else Failure("disconnected", NO_ANSWER))
        else:
            pool.ended(self, transfer, Failure("disconnected", error_text(error)))


def is_comment(part: bytes) -> bool:
    """True for a comment of an event stream, in a chunk or without."""
    _size, _, rest = part.partition(b"\r\n")
    return part.startswith(b":") or rest.startswith(b":") or part == b"\r\n"


def error_text(error: BaseException) -> str:
    """An error of a connection in one line."""
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return " ".join(str(error).split()) or type(error).__name__
