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
import re

import numpy as np

from nexus_tasks.load.event_stream import Event, Events, EventTooLongError
from nexus_tasks.load.messages import CompletionMessages, OpenAIMessages, read_usage
from nexus_tasks.load.reading import Reading, Segment, StreamError
from nexus_tasks.load.sender.http_answer import HttpAnswer, NotHttpError, retry_after_s
from nexus_tasks.servers import answers

COMPLETION = "/completion"
BACKEND_HEADERS = ("x-backend", "x-served-by", "served-by", "x-backend-server", "x-upstream")
"""Headers by which balancers say which server answered."""
RESULTS = ("data", "results", "embeddings", "embedding")
"""What holds the results in a document, one of them."""
_OK = 200
_TAIL = 4
"""So many last events of a segment are read one by one: the end of an answer is unlike the rest of it."""
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_HEX = b"0123456789abcdefABCDEF"


class Answer:
    """Reads one HTTP answer, segment by segment.

    Args:
        path: where the request went; it decides the protocol.
        stream: whether a stream of events was asked for; without it, one JSON document.
        keep_text: whether the reading holds the visible text.
    """

    def __init__(self, path: str, *, stream: bool = True, keep_text: bool = False) -> None:
        self._path = path
        self._stream = stream
        self._keep_text = keep_text
        self._messages = (CompletionMessages if path == COMPLETION else OpenAIMessages)(keep_text=keep_text)
        self._http = HttpAnswer(self._take)
        self._head_size = 0
        self._events = Events()
        self._is_ordinary = True  # until a segment is not
        self._body = bytearray()  # of an answer that is no stream
        self._size = 0  # of a body that is not in chunks, in bytes
        self._unread: list[Segment] = []  # before the head is whole
        self._last: float | None = None  # the arrival of the last byte
        self._last_chunk = False  # it was in an ordinary segment
        self._arrival = 0.0
        self._broken: StreamError | None = None

    def feed(self, segment: Segment) -> None:
        """Read on."""
        if not len(segment.times) or self._broken:
            return
        self._last = float(segment.times[-1])
        start = 0
        if not self._http.status:
            self._unread.append(segment)
            segment = _joined(self._unread)
            self._read_head(segment.raw)
            if not self._http.status:
                return
            start = self._head_size
            self._unread = []
        if self._is_stream() and self._is_ordinary and self._ordinary(segment, start):
            return
        self._is_ordinary = False
        self._exactly(segment, start)

    def finish(self, broken: StreamError | None = None) -> Reading:
        """The reading. ``broken`` is what ended the transport, where that was no ordinary end."""
        head, reading = self._http, self._messages.reading
        served_by = next((head.headers[name] for name in BACKEND_HEADERS if head.headers.get(name)), None)
        reading.backend = answers.name_of(served_by) or reading.backend
        if self._keep_text:
            reading.text = self._messages.text()
        broken = self._broken or broken
        complete = self._broken is None and (self._is_complete() or (head.until_closed and broken is None))
        if not head.status:
            reading.failure = broken or StreamError("disconnected", "the connection was closed before any answer")
        elif head.status != _OK:
            shown = f"an answer in {head.coding}" if head.coding else answers.excerpt(bytes(self._body))
            retry_s = retry_after_s(head.headers)
            reading.failure = StreamError("http_status", f"HTTP {head.status}: {shown}", retry_s)
        elif not self._is_stream():
            self._read_document(reading, broken, complete=complete)
        else:
            self._messages.finish(complete=complete)
            if reading.end is None and reading.failure is None:
                # An answer that arrived whole has not failed, whatever became of the connection afterwards.
                missing_end = f"the stream stopped without its end, after {len(reading.tokens)} tokens"
                reading.failure = broken or StreamError("disconnected", missing_end)
        head.close()
        return reading

    def _is_stream(self) -> bool:
        return self._stream and self._http.is_stream

    def _is_complete(self) -> bool:
        """True where the answer's own end came."""
        if self._http.chunked:
            return self._http.complete or self._last_chunk
        length = self._http.headers.get("content-length")
        return self._http.complete or (length is not None and length.isdecimal() and self._size >= int(length))

    def _read_document(self, reading: Reading, broken: StreamError | None, *, complete: bool) -> None:
        """An answer that is one JSON document: of embeddings, of reranking, or in place of a stream."""
        if not complete:
            reading.failure = broken or StreamError("disconnected", "the answer stopped before its end")
            return
        try:
            document = answers.json_of(bytes(self._body))
        except ValueError:
            document = None
        error = answers.error_in(document)
        kind = self._http.content_type or "something"
        shown = answers.excerpt(bytes(self._body))
        if error:
            reading.failure = StreamError("in_stream", error)
        elif self._stream:
            reading.failure = StreamError("protocol", f"{kind} came instead of a stream of events: {shown}")
        elif not isinstance(document, (dict, list)):
            reading.failure = StreamError("protocol", f"{kind} came instead of JSON: {shown}")
        elif not (document if isinstance(document, list) else any(document.get(name) for name in RESULTS)):
            reading.failure = StreamError("protocol", f"neither embeddings nor ranks came: {shown}")
        else:
            reading.end = self._last
            if isinstance(document, dict):
                read_usage(document, reading)

    # an ordinary segment: whole chunks, whole events, known messages

    def _ordinary(self, segment: Segment, start: int) -> bool:
        """Read a segment at once; False, and nothing done, where it has to be read exactly."""
        raw = segment.raw[start:]
        body, last = _whole_chunks(raw) if self._http.chunked else (raw, False)
        if body is None or b"\r" in body:
            return False
        if body and not self._read_lines(segment, start, body):
            return False
        self._size += len(body)
        self._last_chunk = last
        return True

    def _read_lines(self, segment: Segment, start: int, body: bytes) -> bool:
        """Read the events of a body at once, where each of them is one line of data."""
        if not (body.startswith(b"data: ") and body.endswith(b"\n\n")):
            return False
        lines = body[len(b"data: ") : -2].split(b"\n\ndata: ")
        # The end of an event is found among the raw bytes, so that its arrival is that of its very last byte.
        newline = np.frombuffer(segment.raw, dtype=np.uint8)[start:] == ord("\n")
        ends = np.flatnonzero(newline[1:] & newline[:-1]) + (start + 2)
        if len(ends) != len(lines) or b"\n" in b"".join(lines):
            return False
        times: list[float] = segment.times[np.searchsorted(segment.ends, ends)].tolist()
        bulk = max(len(lines) - _TAIL, 0)
        if not self._messages.bulk(lines[:bulk], times[:bulk]):
            return False
        for moment, line in zip(times[bulk:], lines[bulk:], strict=True):
            self._messages.read(Event(moment, line.decode("utf-8", errors="replace")))
        return True

    # anything else

    def _read_head(self, raw: bytes) -> None:
        """Read heads, up to that of the answer itself; ``raw`` is all that came so far."""
        while not self._http.status and not self._broken:
            end = _HEAD_END.search(raw, self._head_size)
            if end is None:
                return
            self._feed_http(raw[self._head_size : end.end()])
            self._head_size = end.end()
        if self._http.coding:
            self._broken = StreamError("protocol", f"the answer is in {self._http.coding}, which nobody asked for")

    def _exactly(self, segment: Segment, start: int) -> None:
        """Read a segment by the rules of HTTP and of event streams.

        Segments read before were whole: what comes now begins at the begin of a chunk, where the parser stands since
        it read the head.
        """
        at = start
        for moment, end in zip(segment.times.tolist(), segment.ends.tolist(), strict=True):
            if end > at:
                self._arrival = moment
                if self._http.chunked:
                    self._feed_http(segment.raw[at:end])
                else:
                    self._take(segment.raw[at:end])
                    self._size += end - at
                at = end

    def _feed_http(self, data: bytes) -> None:
        if self._broken:
            return
        try:
            self._http.feed(data)
        except NotHttpError as error:
            self._broken = StreamError("protocol", str(error))

    def _take(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self._broken:
            return
        if not self._is_stream():
            self._body += body
            return
        try:
            for event in self._events.feed(self._arrival, body):
                self._messages.read(event)
        except EventTooLongError:
            self._broken = StreamError("protocol", "an event of the stream has no end within 16 MiB")


def _joined(segments: list[Segment]) -> Segment:
    if len(segments) == 1:
        return segments[0]
    shifts = itertools.accumulate((len(segment.raw) for segment in segments), initial=0)
    return Segment(
        np.concatenate([segment.times for segment in segments]),
        np.concatenate([segment.ends + shift for segment, shift in zip(segments, shifts, strict=False)]),
        b"".join(segment.raw for segment in segments),
    )


def _whole_chunks(raw: bytes) -> tuple[bytes | None, bool]:
    """The body of a row of whole chunks, and whether the last of all is among them; None where it is anything else.

    Split at CRLF, sizes and contents alternate. That each content has the size before it proves that the CRLFs
    were those of the framing.
    """
    pieces = raw.split(b"\r\n")
    if pieces.pop() or len(pieces) % 2:
        return None, False
    sizes, contents = pieces[::2], pieces[1::2]
    # Few are distinct: each is looked at once.
    for size, length in set(zip(sizes, map(len, contents), strict=True)):
        if not size or size.translate(None, _HEX) or int(size, 16) != length:
            return None, False
    if b"" in contents[:-1]:
        return None, False
    return b"".join(contents), bool(contents) and not contents[-1]
