"""Answers as bytes and stamps, and as what was read of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FAILURES = ("connect", "http_status", "timeout", "disconnected", "in_stream", "short", "protocol")


class StreamError(Exception):
    """A request that failed. ``kind`` is one of FAILURES; the text is one line."""

    def __init__(self, kind: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = " ".join(message.split())
        self.retry_after_s = retry_after_s


class Segment(NamedTuple):
    """Bytes off the wire: ``raw[ends[i - 1]:ends[i]]`` arrived at ``times[i]`` (seconds)."""

    times: NDArray[np.float64]
    ends: NDArray[np.int64]
    raw: bytes


@dataclass
class Reading:
    """An answer as far as it came.

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
