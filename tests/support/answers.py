"""Answers of servers as bytes with moments, and what the load generator reads of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from nexus_tasks.load.event_stream import Chunk
from nexus_tasks.load.reading import Reading, Segment, StreamError
from nexus_tasks.load.response import Answer

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
STOP = {
    "content": "", "stop": True, "stop_type": "limit", "tokens_predicted": 3, "tokens_evaluated": 8,
    "timings": {"prompt_n": 8, "prompt_ms": 4.0, "predicted_n": 3, "predicted_ms": 2.0, "cache_n": 0},
}  # fmt: skip
USAGE = {"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 4}}


def segment(pieces: Iterable[tuple[float, bytes]]) -> Segment:
    """Pieces off the wire as the generator gets them."""
    times, parts = zip(*pieces, strict=True)
    return Segment(np.array(times), np.cumsum([len(part) for part in parts]), b"".join(parts))


def http(chunks: list[Chunk]) -> list[Chunk]:
    """An answer in the chunked coding, a piece off the wire for each chunk."""
    coded = [(moment, b"%x\r\n%s\r\n" % (len(chunk), chunk)) for moment, chunk in chunks]
    return [(-1.0, HEAD), *coded, (99.0, END)]


def read(path: str, chunks: list[Chunk], broken: StreamError | None = None, **options: Any) -> Reading:
    """The reading of chunks that come one after another."""
    answer = Answer(path, **options)
    answer.feed(segment(http(chunks)))
    return answer.finish(broken)


def sse(*messages: dict[str, Any] | str) -> list[Chunk]:
    """One chunk per message, a second apart."""
    texts = [message if isinstance(message, str) else json.dumps(message) for message in messages]
    return [(float(second), f"data: {text}\n\n".encode()) for second, text in enumerate(texts)]


def token(predicted: int, **more: Any) -> dict[str, Any]:
    """A message of llama-server's that brings a token."""
    return {"content": "a", "tokens": [5], "stop": False, "tokens_predicted": predicted, **more}


def chat(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    """A message of an OpenAI API."""
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def failure(reading: Reading) -> tuple[str, str]:
    """Kind and message of a failure."""
    assert reading.failure is not None
    return reading.failure.kind, reading.failure.message
