"""What an answer of a server says, from the bytes that came and the moments they came.

    answer = Answer("/completion")
    answer.feed(Segment(times, ends, raw))        # as often as something came
    reading = answer.finish(broken=None)          # tokens, timings, how it ended

No network, no clock: everything here is a function of bytes and stamps. A million tokens are read in a few
seconds: whole segments whose framing and messages are ordinary are decoded at once, and whatever is not
ordinary in a segment (comments, other line ends, split events, unknown shapes) is read event by event by the
exact rules. Both give the same reading.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import httptools
import msgspec
import numpy as np
from numpy.typing import NDArray

Chunk = tuple[float, bytes]

FAILURES = ("connect", "http_status", "timeout", "disconnected", "in_stream", "short", "protocol")
ANSWER_EXCERPT = 300
"""How much of an unexpected answer goes into an error message, in characters."""
COMPLETION = "/completion"
BACKEND_HEADERS = ("x-backend", "x-served-by", "served-by", "x-backend-server", "x-upstream")
"""Where balancers say which server answered."""
_OK = 200
_TAIL = 4
"""So many last events of a segment are read one by one: the end of an answer is unlike the rest of it."""
_EMPTY_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class StreamError(Exception):
    """A request that failed. ``kind`` is one of FAILURES; the text is one line."""

    def __init__(self, kind: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = " ".join(message.split())
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Event:
    """One server-sent event: the moment its last byte arrived, and its data."""

    time: float
    data: str


class Segment(NamedTuple):
    """Bytes off the wire: ``raw[ends[i - 1]:ends[i]]`` arrived at ``times[i]`` (seconds)."""

    times: NDArray[np.float64]
    ends: NDArray[np.int64]
    raw: bytes


@dataclass
class Reading:
    """What one answer said, as far as it came.

    ``tokens`` holds the arrival of each token; those of one event arrived at one moment. ``visible`` is the
    arrival of the first that is not reasoning. ``end`` is the arrival of the event that ended the answer, None
    where it never came. ``reasoning_tokens`` counts events: the protocol does not say how many tokens one holds.
    """

    tokens: list[float] = field(default_factory=list)
    visible: float | None = None
    end: float | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int = 0
    cached_tokens: int | None = None
    finish_reason: str | None = None
    timings: dict[str, float] | None = None
    failure: StreamError | None = None
    backend: str | None = None
    text: str | None = None


# --- HTTP


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
        self._messages = (_Completion if path == COMPLETION else _OpenAI)(keep_text=keep_text)
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
        """What it said. ``broken`` is what ended the transport, where that was no ordinary end."""
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
                "http_status", f"HTTP {self._head.status}: {_excerpt(bytes(self._body))}", self._head.retry_after_s
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
            reading.failure = StreamError("in_stream", _error_text(error))
        elif self._stream or not isinstance(document, (dict, list)):
            kind = self._head.content_type or "something"
            wanted = "a stream of events" if self._stream else "JSON"
            reading.failure = StreamError("protocol", f"{kind} came instead of {wanted}: {_excerpt(bytes(self._body))}")
        else:
            reading.end = self._last
            if isinstance(document, dict):
                _read_usage(document, reading)

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


# --- server-sent events


class Events:
    """Finds the events in a stream of bytes, by the event stream format of the HTML standard.

    Lines end in LF, CRLF or CR, an event ends at an empty line, ``data`` lines of one event are joined by LF,
    comments and other fields are skipped. An event without its empty line was cut off and never appears.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, arrival: float, chunk: bytes) -> Iterator[Event]:
        """The events that ``chunk`` completes."""
        rest = self._rest + chunk
        held = b""
        if rest.endswith(b"\r"):  # the LF that belongs to it may follow
            rest, held = rest[:-1], b"\r"
        *lines, rest = rest.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = rest + held
        for line in lines:
            if not line:
                if self._data:
                    yield Event(arrival, "\n".join(self._data))
                self._data = []
                continue
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" ").decode("utf-8", errors="replace"))


def events(chunks: Iterable[Chunk]) -> Iterator[Event]:
    """The events in a stream of chunks, each with the arrival of the chunk that completed it."""
    found = Events()
    for arrival, chunk in chunks:
        yield from found.feed(arrival, chunk)


# --- messages


class _Messages:
    """The messages of one answer. Nothing counts after the one that ends it or tells of a failure."""

    def __init__(self, *, keep_text: bool = False) -> None:
        self.reading = Reading()
        self._keep_text = keep_text
        self._texts: list[str] = []

    def text(self) -> str:
        """What was said so far, without reasoning."""
        return "".join(self._texts)

    def bulk(self, lines: list[bytes], times: list[float]) -> bool:
        """Read messages that only bring tokens; False, and nothing done, where one of them is anything else."""
        raise NotImplementedError

    def read(self, event: Event) -> None:
        """Read any message."""
        reading = self.reading
        if reading.failure or reading.end is not None or self._ended():
            return
        if event.data == "[DONE]":
            self.done(event.time)
            return
        try:
            message = msgspec.json.decode(event.data)
        except (msgspec.DecodeError, UnicodeError):
            message = None
        if not isinstance(message, dict) or not message:
            excerpt = _excerpt(event.data.encode("utf-8", errors="replace"))
            reading.failure = StreamError("protocol", f"not a JSON object: {excerpt}")
        elif message.get("error"):
            reading.failure = StreamError("in_stream", _error_text(message["error"]))
        else:
            reading.backend = reading.backend or _text(message.get("system_fingerprint"))
            self.message(event.time, message)

    def _ended(self) -> bool:
        return False

    def done(self, moment: float) -> None:
        raise NotImplementedError

    def message(self, moment: float, message: dict[str, Any]) -> None:
        raise NotImplementedError


class _CompletionToken(msgspec.Struct, gc=False):
    """A message that brings one token. What says more has fields that must be null here, and is read exactly."""

    tokens_predicted: int
    stop: bool = False
    content: str = ""
    error: None = None


class _Completion(_Messages):
    """llama-server's own ``/completion``: it ends with a message whose ``stop`` is true."""

    _decoder = msgspec.json.Decoder(_CompletionToken)
    _done = False

    def bulk(self, lines: list[bytes], times: list[float]) -> bool:
        if not lines or self._done or self.reading.failure or self.reading.end is not None:
            return True
        try:
            tokens = self._decoder.decode_lines(b"\n".join(lines))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        known = len(self.reading.tokens)
        predicted = [token.tokens_predicted for token in tokens]
        if predicted != list(range(known + 1, known + 1 + len(lines))):
            return False
        if any([token.stop for token in tokens]):  # noqa: C419 - a list is twice as fast
            return False
        self.reading.tokens.extend(times)
        if self.reading.visible is None:
            self.reading.visible = times[0]
        if self._keep_text:
            self._texts.extend([token.content for token in tokens])
        return True

    def _ended(self) -> bool:
        return self._done

    def done(self, moment: float) -> None:
        self._done = True  # without the last message it is no end

    def message(self, moment: float, message: dict[str, Any]) -> None:
        reading = self.reading
        if self._keep_text:
            self._texts.append(_text(message.get("content")) or "")
        if message.get("stop") is True:
            reading.end = moment
            reading.finish_reason = _text(message.get("stop_type"))
            reading.timings = _numbers(message.get("timings"))
            reading.prompt_tokens = _count(message.get("tokens_evaluated"))
            reading.output_tokens = _count(message.get("tokens_predicted"))
            reading.cached_tokens = _count((reading.timings or {}).get("cache_n"))
            return
        # tokens_predicted counts tokens that were held back as well (half a character, a possible stop word):
        # they arrive with this event. Events before the first token carry none (prompt progress).
        predicted = _count(message.get("tokens_predicted"))
        new = 1 if predicted is None else predicted - len(reading.tokens)
        if new > 0:
            reading.tokens.extend([moment] * new)
            if reading.visible is None:
                reading.visible = moment


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta
    index: int = 0
    finish_reason: None = None
    text: None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: tuple[_Choice]
    error: None = None
    usage: None = None
    timings: None = None


class _OpenAI(_Messages):
    """``/v1/completions`` and ``/v1/chat/completions``: they end with ``[DONE]``.

    The protocol does not say how many tokens a chunk holds: each chunk with text counts as one here, and
    ``output_tokens`` comes from ``usage``. llama-server adds its ``timings``.
    """

    _decoder = msgspec.json.Decoder(_Chunk)
    _first = True

    def bulk(self, lines: list[bytes], times: list[float]) -> bool:
        reading = self.reading
        if not lines or reading.failure or reading.end is not None:
            return True
        try:
            chunks = self._decoder.decode_lines(b"\n".join(lines))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        if len(chunks) != len(lines):
            return False
        visible: list[float] = []
        arrivals: list[float] = []
        texts: list[str] = []
        reasoning = 0
        for moment, chunk in zip(times, chunks, strict=True):
            delta = chunk.choices[0].delta
            if delta.content:
                visible.append(moment)
                arrivals.append(moment)
                texts.append(delta.content)
            elif delta.reasoning_content or delta.reasoning:
                arrivals.append(moment)
                reasoning += 1
        reading.tokens.extend(arrivals)
        reading.reasoning_tokens += reasoning
        if visible and reading.visible is None:
            reading.visible = visible[0]
        if self._keep_text:
            self._texts.extend(texts)
        if self._first:
            self._first = False
            reading.backend = _text(msgspec.json.decode(lines[0]).get("system_fingerprint"))
        return True

    def done(self, moment: float) -> None:
        self.reading.end = moment

    def message(self, moment: float, message: dict[str, Any]) -> None:
        reading = self.reading
        choices = message.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            delta = _object(choice.get("delta")) or choice
            # Reasoning and tool calls are tokens as well; the first chunk of a chat only names the role.
            visible = any(delta.get(key) for key in ("content", "tool_calls", "text"))
            reasoned = any(delta.get(key) for key in ("reasoning_content", "reasoning"))
            if visible or reasoned:
                reading.tokens.append(moment)
            if visible:
                reading.visible = moment if reading.visible is None else reading.visible
                if self._keep_text:
                    self._texts.append(_text(delta.get("content")) or _text(delta.get("text")) or "")
            elif reasoned:
                reading.reasoning_tokens += 1
            reading.finish_reason = _text(choice.get("finish_reason")) or reading.finish_reason
        _read_usage(message, reading)


def _read_usage(message: dict[str, Any], reading: Reading) -> None:
    usage = _object(message.get("usage"))
    if usage is not None:
        reading.prompt_tokens = _count(usage.get("prompt_tokens"))
        reading.output_tokens = _count(usage.get("completion_tokens"))
        cached = _count((_object(usage.get("prompt_tokens_details")) or {}).get("cached_tokens"))
        reading.cached_tokens = cached if cached is not None else reading.cached_tokens
    timings = _numbers(message.get("timings"))
    if timings is not None:
        reading.timings = timings
        cached = _count(timings.get("cache_n"))
        reading.cached_tokens = cached if cached is not None else reading.cached_tokens


def _error_text(error: object) -> str:
    text = error.get("message") if isinstance(error, dict) else error
    return str(text or error)[:ANSWER_EXCERPT]


def _excerpt(answer: bytes) -> str:
    """The message in an error answer, or the beginning of whatever else it is."""
    text = answer.decode("utf-8", errors="replace")
    try:
        error = msgspec.json.decode(text)["error"]
        text = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError):
        pass
    text = " ".join(str(text).split())
    return text[:ANSWER_EXCERPT] or "an empty answer"


def _object(value: object) -> dict[str, Any] | None:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _numbers(value: object) -> dict[str, float] | None:
    """The numbers in an object; None where it holds none."""
    numbers = {key: number for key, number in (_object(value) or {}).items() if type(number) in (int, float)}
    return numbers or None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
