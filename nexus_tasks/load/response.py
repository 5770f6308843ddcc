"""A server's answer, from the bytes that came and the moments they came.

    answer = Answer("/completion")
    answer.feed(Segment(times, ends, raw))        # as often as something came
    reading = answer.finish(broken=None)          # tokens, timings, how it ended

No network, no clock: everything here is a function of bytes and stamps. Whole segments whose framing and messages are
ordinary are decoded at once, and whatever is not ordinary in a segment (comments, other line ends, split events,
unknown shapes) is read event by event by the exact rules. Both give the same reading.
"""

from __future__ import annotations

import itertools

import httptools
import msgspec
import numpy as np

from nexus_tasks.load.event_stream import Events, events
from nexus_tasks.load.messages import CompletionMessages, OpenAIMessages, error_text, excerpt, read_usage
from nexus_tasks.load.reading import Reading, Segment, StreamError

COMPLETION = "/completion"
BACKEND_HEADERS = ("x-backend", "x-served-by", "served-by", "x-backend-server", "x-upstream")
"""Headers by which balancers say which server answered."""
_OK = 200
_TAIL = 4
"""So many last events of a segment are read one by one: the end of an answer is unlike the rest of it."""
_EMPTY_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Answer:
    """Reads one HTTP answer, segment by segment.

    Args:
        path: where the request went; it decides the protocol.
        stream: whether a stream of events was asked for; without it, one JSON document.
        keep_text: whether the reading holds the visible text.
    """

    def __init__(self, path: str, *, stream: bool = True, keep_text: bool = False) -> None:
        self._stream = stream
        self._keep_text = keep_text
        self._messages = (CompletionMessages if path == COMPLETION else OpenAIMessages)(keep_text=keep_text)
        self._head = _Head()
        self._events: Events | None = None  # from the first segment on that is not ordinary
        self._parser: httptools.HttpResponseParser | None = None
        self._body = bytearray()  # of an answer that is no stream
        self._unread: list[Segment] = []  # before the head is whole
        self._last: float | None = None  # the arrival of the last byte
        self._complete = False  # the message's own end came
        self._arrival = 0.0
        self._broken: StreamError | None = None

    def feed(self, segment: Segment) -> None:
        """Read on."""
        if not len(segment.times) or self._broken:
            return
        self._last = float(segment.times[-1])
        if self._head.status is None:
            self._unread.append(segment)
            segment = _joined(self._unread)
            start = self._head.read(segment.raw)
            if start is None:
                return
            self._unread = []
        else:
            start = 0
        if self._is_stream() and self._parser is None and self._events is None and self._ordinary(segment, start):
            return
        self._exactly(segment, start)

    def finish(self, broken: StreamError | None = None) -> Reading:
        """The reading. ``broken`` is what ended the transport, where that was no ordinary end."""
        reading = self._messages.reading
        reading.backend = self._head.backend or reading.backend
        if self._keep_text:
            reading.text = self._messages.text()
        if self._parser is not None and not self._complete and broken is None:
            # An answer without a length ends with its connection.
            self._complete = self._head.until_closed
        broken = self._broken or broken
        if self._head.status is None:
            reading.failure = broken or StreamError("disconnected", "the connection was closed before any answer")
        elif self._head.status != _OK:
            reading.failure = StreamError(
                "http_status", f"HTTP {self._head.status}: {excerpt(bytes(self._body))}", self._head.retry_after_s
            )
        elif not self._is_stream():
            self._read_document(reading, broken)
        elif reading.end is None and reading.failure is None:
            # An answer that arrived whole has not failed, whatever became of the connection afterwards.
            missing_end = f"the stream stopped without its end, after {len(reading.tokens)} tokens"
            reading.failure = broken or StreamError("disconnected", missing_end)
        return reading

    def _is_stream(self) -> bool:
        return self._stream and self._head.status == _OK and self._head.may_be_events

    def _read_document(self, reading: Reading, broken: StreamError | None) -> None:
        """An answer that is one JSON document: of embeddings, of reranking, or in place of a stream."""
        if not self._complete:
            reading.failure = broken or StreamError("disconnected", "the answer stopped before its end")
            return
        try:
            document = msgspec.json.decode(self._body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            document = None
        error = document.get("error") if isinstance(document, dict) else None
        if error:
            reading.failure = StreamError("in_stream", error_text(error))
        elif self._stream or not isinstance(document, (dict, list)):
            kind = self._head.content_type or "something"
            wanted = "a stream of events" if self._stream else "JSON"
            reading.failure = StreamError("protocol", f"{kind} came instead of {wanted}: {excerpt(bytes(self._body))}")
        else:
            reading.end = self._last
            if isinstance(document, dict):
                read_usage(document, reading)

    # an ordinary segment: whole chunks, whole events, known messages

    def _ordinary(self, segment: Segment, start: int) -> bool:
        """Read a segment at once; False, and nothing done, where it has to be read exactly."""
        body = _whole_chunks(segment.raw[start:]) if self._head.chunked else segment.raw[start:]
        if body is None or b"\r" in body:
            return False
        if not body:
            return True
        if not (body.startswith(b"data: ") and body.endswith(b"\n\n")):
            return False
        # The end of an event is found among the raw bytes, so that its arrival is that of its very last byte.
        newline = np.frombuffer(segment.raw, dtype=np.uint8)[start:] == ord("\n")
        ends = np.flatnonzero(newline[1:] & newline[:-1]) + (start + 2)
        lines = body[len(b"data: ") : -2].split(b"\n\ndata: ")
        if len(ends) != len(lines):
            return False
        times: list[float] = segment.times[np.searchsorted(segment.ends, ends)].tolist()
        bulk = max(len(lines) - _TAIL, 0)
        if not self._messages.bulk(lines[:bulk], times[:bulk]):
            return False
        for moment, line in zip(times[bulk:], lines[bulk:], strict=True):
            for event in events([(moment, b"data: " + line + b"\n\n")]):
                self._messages.read(event)
        return True

    # anything else

    def _exactly(self, segment: Segment, start: int) -> None:
        """Read a segment by the rules of HTTP and of event streams."""
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
            # Segments read before were whole: what comes now continues the message at the begin of a chunk.
            self._feed_parser(segment.raw[:start] if start else self._head.resumed)
        if self._events is None:
            self._events = Events()
        at = start
        for moment, end in zip(segment.times.tolist(), segment.ends.tolist(), strict=True):
            if end > at:
                self._arrival = moment
                self._feed_parser(segment.raw[at:end])
                at = end

    def _feed_parser(self, data: bytes) -> None:
        if self._broken or self._complete or self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._broken = StreamError("protocol", f"not HTTP: {error}")

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        if not self._is_stream():
            self._body += body
            return
        for event in self._events.feed(self._arrival, body) if self._events else ():
            self._messages.read(event)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._complete = True


class _Head:
    """Status and headers of an answer, as far as they matter here."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.chunked = False
        self.until_closed = False
        self.content_type: str | None = None
        self.retry_after_s: float | None = None
        self.backend: str | None = None
        self.resumed = _EMPTY_HEAD
        self._headers: dict[str, str] = {}

    @property
    def may_be_events(self) -> bool:
        return self.content_type in (None, "text/event-stream")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1").strip()

    def read(self, raw: bytes) -> int | None:
        """Read the head; gives where the body begins, None while the head is not whole."""
        end = raw.find(b"\r\n\r\n") + 4
        if end < 4:
            return None
        parser = httptools.HttpResponseParser(self)
        try:
            parser.feed_data(raw[:end])
            self.status = parser.get_status_code()
        except httptools.HttpParserError:
            self.status = None
            return None
        headers = self._headers
        self.chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self.until_closed = not self.chunked and "content-length" not in headers
        if not self.chunked:
            self.resumed = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
        self.content_type = headers.get("content-type", "").partition(";")[0].strip().lower() or None
        self.retry_after_s = retry_after(headers.get("retry-after"))
        self.backend = next((headers[name] for name in BACKEND_HEADERS if headers.get(name)), None)
        return end


def retry_after(value: str | None) -> float | None:
    """The seconds of a Retry-After header; None where it is missing or a date, which would need a right clock."""
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _joined(segments: list[Segment]) -> Segment:
    if len(segments) == 1:
        return segments[0]
    shifts = itertools.accumulate((len(segment.raw) for segment in segments), initial=0)
    return Segment(
        np.concatenate([segment.times for segment in segments]),
        np.concatenate([segment.ends + shift for segment, shift in zip(segments, shifts, strict=False)]),
        b"".join(segment.raw for segment in segments),
    )


def _whole_chunks(raw: bytes) -> bytes | None:
    """The body of a row of whole chunks, None where it is anything else.

    Split at CRLF, sizes and contents alternate. That each content has the size before it proves that the CRLFs
    were those of the framing.
    """
    pieces = raw.split(b"\r\n")
    if pieces.pop() or len(pieces) % 2:
        return None
    sizes, contents = pieces[::2], pieces[1::2]
    try:
        lengths = [int(size, 16) for size in sizes]
    except ValueError:
        return None
    if lengths != list(map(len, contents)) or 0 in lengths[:-1]:
        return None
    return b"".join(contents)
