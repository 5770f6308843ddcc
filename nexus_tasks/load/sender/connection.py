"""A connection to the server: one HTTP request at a time, each piece of its answer stamped and kept.

llhttp says where the answer ends. It reads the pieces when one of them may be the last, many at once: an answer in the
chunked coding ends with two line ends, or in a piece of a few bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from nexus_tasks.load.sender.http_answer import HttpAnswer, NotHttpError, retry_after_s
from nexus_tasks.load.sender.protocol import Ask

if TYPE_CHECKING:
    from nexus_tasks.load.sender.pool import Pool

NO_ANSWER = "the server closed the connection without an answer"
MAX_STREAM_BYTES = 256 << 20
MAX_DOCUMENT_BYTES = 64 << 20
MAX_ERROR_BYTES = 1 << 20
"""The largest answers that are taken: of a stream, of any other answer, and of one with an error's status."""
_MAY_END = b"\r\n\r\n"
_HANGS_UP_S = 1.0
"""A connection that is closed so soon after an answer shows that the server always does it."""
_LAST_WORDS = re.compile(
    # The end by the OpenAI API, by llama-server's completions, and an error in place of either.
    rb"(?:^|[\r\n])(?:data: ?(?:\[DONE\]|\{[^\r\n]*\"stop\": ?true[^\r\n]*|\{\"error\": ?[^n\s][^\r\n]*)"
    rb"|event: ?error(?:\r\n|\r|\n)data:[^\r\n]*)[\r\n]+$"
)
_LAST_WORDS_S = 1.0
"""A server that has said its last words and sends nothing more for so long has forgotten to end its answer."""
_EMPTY_MESSAGE = (
    # A message of the OpenAI API whose only choice brings no text, and no other news of how far the server is.
    rb'data: ?\{(?![^\r\n]*(?:"prompt_progress"|"index": ?[1-9]))'
    rb'(?>[^\r\n]*?(?:"text": ?""|"delta": ?\{(?:"(?:role": ?"\w*"|\w+": ?(?:null|""))(?:, ?)?)*+\}))[^\r\n]*'
)
_KEEP_ALIVE = re.compile(
    # Sizes of chunks, and of an event stream the lines that bring nothing: comments, empty data, other fields.
    # A line is read in one way alone: pieces of many lines would take ages otherwise.
    rb"(?>(?:[0-9A-Fa-f]++[ \t]*(?:;[^\r\n]*)?|:[^\r\n]*|data:? ?|(?:event|id|retry)(?::[^\r\n]*)?"
    rb"|" + _EMPTY_MESSAGE + rb")?(?>\r\n|\r|\n))++"
)


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
        self.answer = HttpAnswer()
        self.times: list[float] = []
        self.parts: list[bytes] = []
        self.used = 0  # answers that it brought
        self.freed = 0.0  # when the last of them ended
        self.packed = 0  # pieces of the present answer that were handed on already
        self.begun = 0.0  # arrival of the first piece
        self.last = 0.0  # arrival of the last news in those that were handed on
        self.closing = False
        self._read = 0  # pieces of ``parts`` that llhttp has read
        vars(self)["data_received"] = self._receiver()  # a closure is the cheapest there is
        self.look_closely = True

    def _receiver(self) -> Callable[[bytes], None]:
        stamp, keep = self.times.append, self.parts.append

        def data_received(data: bytes) -> None:
            stamp(perf_counter())
            keep(data)
            if data.endswith(_MAY_END) or len(data) < 5 or self.look_closely:
                self._look()

        return data_received

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]  # uvloop's classes are not asyncio's

    def send(self, transfer: Transfer) -> None:
        """Send a request; the connection must be idle."""
        self.transfer = transfer
        self.answer.begin()
        self.times.clear()
        self.parts.clear()
        self.packed, self._read, self.begun, self.last = 0, 0, 0.0, 0.0
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
        """The moment of the last news; what only keeps connections alive is none."""
        sent = self.transfer.sent if self.transfer else 0.0
        return _last_news(self.times, self.parts) or self.last or sent

    @property
    def is_unfinished_since(self) -> float | None:
        """The moment at which a head, or a body that is no stream, began to come; None for a stream."""
        return None if self.answer.is_stream or not self.begun else self.begun

    @property
    def retry_after_s(self) -> float:
        """The pause that the server asks for, in seconds."""
        if self.answer.status not in (429, 503):
            return 0.0
        return retry_after_s(self.answer.headers) or 0.0

    def check_end(self) -> None:
        """Read what came since the last look, where nothing called for it: an end may come in pieces, or never."""
        if self.transfer is None or not self.parts:
            return
        if self._read < len(self.parts):
            self._look()
        elif (
            self.answer.is_stream
            and perf_counter() - self.times[-1] > _LAST_WORDS_S
            and _LAST_WORDS.search(self.parts[-1])
        ):
            self._ended()  # the connection serves no other: the answer is not complete

    def cut(self, end: int) -> tuple[list[float], list[bytes]]:
        """Give away the first pieces; all of them must have been read."""
        cut = self.times[:end], self.parts[:end]
        del self.times[:end], self.parts[:end]
        self._read -= end
        self.packed += end
        self.last = _last_news(*cut) or self.last
        return cut

    def _look(self) -> None:
        """Read on, and note the end of the answer where it is there."""
        if self.transfer is None:
            if self.transport:
                self.transport.abort()  # bytes that nobody asked for
            return
        answer, parts = self.answer, self.parts
        self.begun = self.begun or self.times[0]
        try:
            answer.feed(parts[-1] if self._read == len(parts) - 1 else b"".join(parts[self._read :]))
        except NotHttpError as error:
            self.fail(Failure("protocol", str(error)))
            return
        self._read = len(parts)
        if answer.complete:
            self._ended()
        elif answer.status:
            self.look_closely = not (answer.is_stream and answer.chunked)
            is_error = answer.status >= 400
            limit = MAX_STREAM_BYTES if answer.is_stream else MAX_ERROR_BYTES if is_error else MAX_DOCUMENT_BYTES
            if answer.fed > limit:
                self.fail(Failure("protocol", f"the answer is larger than {limit >> 20} MiB, and goes on"))

    def _ended(self) -> None:
        transfer, self.transfer = self.transfer, None
        self.look_closely = True  # whatever comes now is nobody's
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
            self.pool.ended(self, transfer, failure)

    def connection_lost(self, error: Exception | None) -> None:
        """Decide what the loss means for the present request."""
        pool, transfer = self.pool, self.transfer
        self.transport = None
        pool.forget(self)
        with contextlib.suppress(KeyError):
            del vars(self)["data_received"]  # the closure knows this connection: they would never be freed
        self.answer.close()
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


def _last_news(times: Sequence[float], parts: Sequence[bytes]) -> float | None:
    """The moment of the last piece that brings news; None where none does."""
    pairs = zip(reversed(times), reversed(parts), strict=True)
    return next((moment for moment, part in pairs if not is_keep_alive(part)), None)


def is_keep_alive(part: bytes) -> bool:
    """True for a piece that brings no news, in chunks or without: comments of an event stream, events without data, and
    messages that say nothing.
    """
    return _KEEP_ALIVE.fullmatch(part) is not None


def error_text(error: BaseException) -> str:
    """An error of a connection in one line."""
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return " ".join(str(error).split()) or type(error).__name__
