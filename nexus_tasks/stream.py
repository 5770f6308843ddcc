"""One streamed answer of a server: when its bytes arrived, and what they say.

    chunks = list(post(client, "/completion", body, silence_s=300))    # I/O: (arrival, raw bytes)
    reading = read("/completion", chunks)                              # pure: tokens, timings, how it ended

Only :func:`post` talks to the network. It hands out bytes with the moment of their arrival and does not read
them, so that decoding JSON never delays a later chunk's time; all else here is a pure function of the chunks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from nexus_tasks.endpoint import CONNECT_TIMEOUT_S

Clock = Callable[[], float]
Chunk = tuple[float, bytes]

FAILURES = ("http_status", "timeout", "disconnected", "in_stream", "short", "protocol")
ANSWER_EXCERPT = 300
"""How much of an unexpected answer goes into an error message, in characters."""


class StreamError(Exception):
    """A request that failed. ``kind`` is one of FAILURES; the text is one line."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = " ".join(message.split())


@dataclass(frozen=True)
class Event:
    """One server-sent event: the moment its last byte arrived, and its data."""

    time: float
    data: str


@dataclass
class Reading:
    """What one answer said, as far as it came.

    ``tokens`` holds the arrival of each token; those of one event arrived at one moment. ``end`` is the
    arrival of the event that ended the answer, None where it never came.
    """

    tokens: list[float] = field(default_factory=list)
    end: float | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    finish_reason: str | None = None
    timings: dict[str, float] | None = None
    failure: StreamError | None = None


def post(
    client: httpx.Client,
    path: str,
    body: dict[str, Any],
    *,
    silence_s: float,
    clock: Clock = time.perf_counter,
) -> Iterator[Chunk]:
    """POST ``body`` and yield what comes back, as it comes: the one place that touches the network.

    The first chunk is empty: it tells when the request was sent, once the connection stood.

    Args:
        client: knows the base URL and the key.
        silence_s: the longest time without news; a keep-alive comment is no news.
        clock: gives the moments, in seconds.

    Raises:
        StreamError: ``http_status``, ``timeout`` or ``disconnected``.
    """
    sent = clock()

    def mark(step: str, _: dict[str, Any]) -> None:
        nonlocal sent
        if step == "http11.send_request_headers.started":
            sent = clock()

    try:
        with client.stream(
            "POST",
            path,
            json=body,
            timeout=httpx.Timeout(silence_s, connect=CONNECT_TIMEOUT_S),
            extensions={"trace": mark},
        ) as response:
            yield sent, b""
            if response.status_code != httpx.codes.OK:
                raise StreamError("http_status", f"HTTP {response.status_code}: {_excerpt(response.read())}")
            news = sent
            for chunk in response.iter_raw():
                arrival = clock()
                yield arrival, chunk
                # A wedged server goes on sending comments: without this, such a request would never end.
                if not chunk.startswith(b":"):
                    news = arrival
                elif arrival - news > silence_s:
                    raise StreamError("timeout", f"nothing but keep-alive comments for {silence_s:g} s")
    except httpx.ConnectTimeout as error:
        raise StreamError("timeout", f"no connection within {CONNECT_TIMEOUT_S:g} s") from error
    except httpx.TimeoutException as error:
        raise StreamError("timeout", f"nothing arrived for {silence_s:g} s") from error
    except httpx.TransportError as error:
        raise StreamError("disconnected", str(error) or type(error).__name__) from error


def events(chunks: Iterable[Chunk]) -> Iterator[Event]:
    """The server-sent events in a stream of chunks, each with the arrival of the chunk that completed it.

    Follows the event stream format of the HTML standard: lines end in LF, CRLF or CR, an event ends at an
    empty line, ``data`` lines of one event are joined by LF, comments and other fields are skipped. An event
    without its empty line was cut off and is dropped.
    """
    data: list[str] = []
    for arrival, line in _lines(chunks):
        if not line:
            if data:
                yield Event(arrival, "\n".join(data))
            data = []
            continue
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" ").decode("utf-8", errors="replace"))


def _lines(chunks: Iterable[Chunk]) -> Iterator[tuple[float, bytes]]:
    """Whole lines without their ends. A CR at the end of a chunk waits for the LF that may follow."""
    rest = b""
    for arrival, chunk in chunks:
        rest += chunk
        held = b""
        if rest.endswith(b"\r"):
            rest, held = rest[:-1], b"\r"
        *lines, rest = rest.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        rest += held
        for line in lines:
            yield arrival, line


def read(path: str, chunks: Iterable[Chunk], broken: StreamError | None = None) -> Reading:
    """What the chunks of an answer say.

    Args:
        path: where the request went; it decides the protocol.
        broken: what ended the transport, where that was no ordinary end.
    """
    reading = (read_completion if path == "/completion" else read_openai)(events(chunks))
    if reading.end is None and reading.failure is None:
        # An answer that arrived whole has not failed, whatever became of the connection afterwards.
        missing_end = f"the stream stopped without its end, after {len(reading.tokens)} tokens"
        reading.failure = broken or StreamError("disconnected", missing_end)
    return reading


def read_completion(stream: Iterable[Event]) -> Reading:
    """Read an answer of llama-server's own ``/completion``: it ends with an event whose ``stop`` is true."""
    reading = Reading()
    for event, message in _messages(stream, reading):
        if not message:
            break  # [DONE] without the last event
        if message.get("stop") is True:
            reading.end = event.time
            reading.finish_reason = _text(message.get("stop_type"))
            reading.timings = _numbers(message.get("timings"))
            reading.prompt_tokens = _count(message.get("tokens_evaluated"))
            reading.output_tokens = _count(message.get("tokens_predicted"))
            break
        # tokens_predicted counts tokens that were held back as well (half a character, a possible stop word):
        # they arrive with this event. Events before the first token carry none (prompt progress).
        predicted = _count(message.get("tokens_predicted"))
        new = 1 if predicted is None else predicted - len(reading.tokens)
        reading.tokens.extend([event.time] * max(new, 0))
    return reading


def read_openai(stream: Iterable[Event]) -> Reading:
    """Read an answer of ``/v1/completions`` or ``/v1/chat/completions``: it ends with ``[DONE]``.

    The protocol does not say how many tokens a chunk holds: each chunk with text counts as one here, and
    ``output_tokens`` comes from ``usage``. llama-server adds its ``timings``.
    """
    reading = Reading()
    for event, message in _messages(stream, reading):
        if not message:
            reading.end = event.time
            break
        for choice in message.get("choices") or []:
            if not isinstance(choice, dict):
                continue
            delta = _object(choice.get("delta")) or choice
            # Reasoning and tool calls are tokens as well; the first chunk of a chat only names the role.
            if any(delta.get(key) for key in ("content", "reasoning_content", "reasoning", "tool_calls", "text")):
                reading.tokens.append(event.time)
            reading.finish_reason = _text(choice.get("finish_reason")) or reading.finish_reason
        usage = _object(message.get("usage"))
        if usage is not None:
            reading.prompt_tokens = _count(usage.get("prompt_tokens"))
            reading.output_tokens = _count(usage.get("completion_tokens"))
        reading.timings = _numbers(message.get("timings")) or reading.timings
    return reading


def _messages(stream: Iterable[Event], reading: Reading) -> Iterator[tuple[Event, dict[str, Any]]]:
    """The events as JSON objects, ``[DONE]`` as an empty one; stops at the first that tells of a failure."""
    for event in stream:
        if event.data == "[DONE]":
            yield event, {}
            continue
        try:
            message = json.loads(event.data)
        except json.JSONDecodeError:
            message = None
        if not isinstance(message, dict) or not message:
            reading.failure = StreamError("protocol", f"not a JSON object: {_excerpt(event.data.encode())}")
            return
        if message.get("error"):
            error = message["error"]
            text = error.get("message") if isinstance(error, dict) else error
            reading.failure = StreamError("in_stream", str(text or error)[:ANSWER_EXCERPT])
            return
        yield event, message


def _excerpt(answer: bytes) -> str:
    """The message in an error answer, or the beginning of whatever else it is."""
    text = answer.decode("utf-8", errors="replace")
    try:
        error = json.loads(text)["error"]
        text = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError):
        pass
    text = " ".join(str(text).split())
    return text[:ANSWER_EXCERPT] or "an empty answer"


def _object(value: object) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


def _numbers(value: object) -> dict[str, float] | None:
    """The numbers in an object; None where it holds none."""
    numbers = {key: number for key, number in (_object(value) or {}).items() if type(number) in (int, float)}
    return numbers or None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
