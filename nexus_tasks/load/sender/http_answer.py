"""HTTP answers as RFC 9112 has them, read by llhttp in whatever pieces they come.

    answer = HttpAnswer()
    answer.feed(data)                   # as often as something came
    answer.status, answer.headers, answer.complete

They are read twice: by the sender process, which has to know where they end, and by the generator, which needs their
bodies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

import httptools

MAX_HEAD_BYTES = 1 << 20
_NO_BODY = (204, 304)
_SWITCHING = 101


class NotHttpError(Exception):
    """It is no HTTP answer; the text says why, in one line."""


class HttpAnswer:
    """The answers of a connection, one after another: :meth:`begin` before each.

    Informational answers (1xx) before one are passed over, and so are trailers and chunk extensions.

    Args:
        on_body: gets the pieces of the body; without it they are counted only.

    Attributes:
        status: 0 until the head is whole.
        headers: by names in small letters; several of one name are joined by commas.
        is_stream: the body can be a stream of events.
        coding: that of a body that nobody asked for, such as ``gzip``.
        complete: the answer's own end came. Never, where the connection's is its end (``until_closed``).
        fed: bytes that were read.
    """

    status: int
    headers: dict[str, str]
    chunked: bool
    is_stream: bool
    coding: str | None
    until_closed: bool
    complete: bool
    fed: int

    def __init__(self, on_body: Callable[[bytes], None] | None = None) -> None:
        if on_body is not None:
            self.on_body = on_body  # llhttp makes no pieces for a parser that does not want them
        self._keeps_alive = False
        self._parser = httptools.HttpResponseParser(self)
        # What the RFC lets a client take, and servers do: LF alone ends lines, blanks follow sizes, both framings.
        self._parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True, lenient_chunked_length=True
        )
        self.begin()

    def begin(self) -> None:
        """Wait for an answer."""
        self.status, self.headers, self.fed, self.coding = 0, {}, 0, None
        self.is_stream = self.chunked = self.until_closed = self.complete = self._keeps_alive = False

    def close(self) -> None:
        """Let go of the parser, which knows this object: they would wait for each other to be freed."""
        vars(self).pop("_parser", None)

    def feed(self, data: bytes) -> None:
        """Read on; what follows the end of the answer is nobody's, and lets the connection serve no further one.

        Raises:
            NotHttpError: it is no answer.
        """
        if self.complete:
            self._keeps_alive = False
            return
        self.fed += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.complete, self._keeps_alive = True, False
        except httptools.HttpParserError as error:
            if not self.complete:
                raise NotHttpError(f"not HTTP: {error}") from error
            self._keeps_alive = False
        if not self.status and self.fed > MAX_HEAD_BYTES:
            raise NotHttpError("not HTTP: no head within a megabyte")

    @property
    def keeps_connection(self) -> bool:
        """True where another request may follow on the connection."""
        return self.complete and self._keeps_alive

    @property
    def content_type(self) -> str | None:
        """The type of the body, without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower() or None

    # called by the parser

    def on_message_begin(self) -> None:
        """After the end, it is something that nobody asked for."""
        if self.complete:
            self._keeps_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those that come after the head are trailers."""
        if not self.status:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip()
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        """Take the head, where it is that of the answer itself."""
        status = self._parser.get_status_code()
        if self.complete:
            return
        if 100 <= status < 200 and status != _SWITCHING:
            self.headers = {}
            return
        self.status = status
        self.is_stream = status == 200 and self.content_type in (None, "text/event-stream")
        content, transfer = (
            self.headers.get(name, "").strip().lower() for name in ("content-encoding", "transfer-encoding")
        )
        self.chunked = transfer.endswith("chunked")
        if content not in ("", "identity"):
            self.coding = content
        elif transfer not in ("", "chunked", "identity"):
            self.coding = transfer
        has_end = self.chunked or "content-length" in self.headers or status in _NO_BODY
        self.until_closed = not has_end
        self._keeps_alive = has_end and self._parser.should_keep_alive()

    def on_message_complete(self) -> None:
        """Note the end, where it is that of the answer itself."""
        if self.status:
            self.complete = True


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The seconds that a Retry-After header asks to wait; None where it is missing, or neither seconds nor a date.

    A date is held against the ``Date`` of the same answer, and where there is none against this machine's clock, which
    may tell another time.

    Args:
        headers: of the answer, by their names in small letters.
    """
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        until = _moment(value)
        if until is None:
            return None
        sent = _moment(headers.get("date", ""))
        seconds = max(0.0, until - (time.time() if sent is None else sent))
    return seconds if 0 <= seconds < float("inf") else None


def _moment(date: str) -> float | None:
    """A date as HTTP has it, in seconds since 1970; None where it is none."""
    try:
        found = parsedate_to_datetime(date)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
