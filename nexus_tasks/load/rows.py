"""Request rows, as records have them. Time to first token and inter-token latency are defined here.

All moments are seconds on one clock, that of ``time.perf_counter``.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nexus_tasks.load.reading import Reading, StreamError
from nexus_tasks.load.requests import Request
from nexus_tasks.load.response import COMPLETION
from nexus_tasks.records.benchmark_rows import Draft, Error, RequestRow, Timings


@dataclass(frozen=True)
class Place:
    """The place of a request in its run."""

    index: int
    stage: int
    phase: str
    key: str | None
    conversation: int | None
    turn: int
    worker: int


STOP_REASONS = ("stop", "eos", "word", "tool_calls", "function_call", "content_filter")
"""Reasons for which a model may end before the length it was given; ``limit`` and ``length`` are that length."""
STALL_MS = 500.0
STALL_FACTOR = 10.0


def request_row(
    place: Place, request: Request, reading: Reading, *, intended: float, sent: float, ended: float, origin: float
) -> RequestRow:
    """A request as a record has it, in round 0.

    Args:
        intended: when it should have begun.
        sent: when it was.
        ended: when nothing more came; not used where the answer has an end of its own.
        origin: the run's begin.
    """
    timings = reading.timings or {}
    output = reading.output_tokens if reading.output_tokens is not None else timings.get("predicted_n")
    complete = reading.end is not None
    failure = reading.failure or _wrong_length(request, reading, output)
    drafted = timings.get("draft_n")
    return RequestRow(
        **vars(place),
        round=0,
        intended_s=round(intended - origin, 6),
        start_s=round(sent - origin, 6),
        late_ms=_ms(sent - intended),
        ok=failure is None,
        error=_error(failure) if failure else None,
        prompt_tokens=_prompt_tokens(reading),
        output_tokens=_whole(output) if complete else len(reading.tokens),
        reasoning_tokens=reading.reasoning_tokens if reading.tokens else None,
        cached_tokens=reading.cached_tokens,
        draft=None if drafted is None else Draft(n=int(drafted), accepted=_whole(timings.get("draft_n_accepted"))),
        finish_reason=reading.finish_reason,
        # llama-server says how many tokens an event brings; those that come with the last have no moment of their own.
        **_latencies(
            reading, intended, sent, reading.end if reading.end is not None else ended,
            timed=len(reading.tokens) if request.path == COMPLETION else output,
        ),
        server=_timings(timings) if timings else None,
        backend=reading.backend,
    )  # fmt: skip


def ttft_ms(reading: Reading, intended: float) -> float | None:
    """Time to first token (TTFT): from when a request should have begun to the arrival of its first token.

    Tokens of reasoning count. In a closed loop a request should begin when it is sent; in an open loop when it is due,
    so that a server or a client that falls behind can't hide it (coordinated omission). None where no token came.
    """
    return _ms(reading.tokens[0] - intended) if reading.tokens else None


def itl_ms(reading: Reading) -> list[float]:
    """Inter-token latencies (ITL): the gaps between the arrivals of tokens; one less than there are tokens."""
    gaps: list[float] = np.round(np.diff(reading.tokens) * 1000, 3).tolist() if len(reading.tokens) > 1 else []
    return gaps


def stalls(gaps: Sequence[float]) -> int:
    """The number of gaps (ms) far out of the ordinary: above 500 ms and 10 times the median of their request."""
    if not gaps or max(gaps) <= STALL_MS:
        return 0
    bound = max(STALL_MS, STALL_FACTOR * statistics.median(gaps))
    return sum(gap > bound for gap in gaps)


def _latencies(reading: Reading, intended: float, sent: float, ended: float, *, timed: float | None) -> dict[str, Any]:
    """Times and speeds; ``timed`` is the number of tokens that have a moment of their own."""
    tokens = reading.tokens
    timings = reading.timings or {}
    decode_s = tokens[-1] - tokens[0] if tokens and reading.end is not None else None
    prompt_n, prompt_ms = timings.get("prompt_n"), timings.get("prompt_ms")
    gaps = itl_ms(reading)
    return {
        "ttft_ms": ttft_ms(reading, intended),
        "ttft_visible_ms": _ms(reading.visible - intended) if reading.visible is not None else None,
        "queue_ms": round((tokens[0] - sent) * 1000 - prompt_ms, 3) if tokens and prompt_ms is not None else None,
        "decode_ms": _ms(decode_s) if decode_s is not None else None,
        "total_ms": _ms(ended - intended),
        "tpot_ms": round(decode_s * 1000 / (timed - 1), 4) if decode_s and timed and timed > 1 else None,
        "itl_ms": gaps,
        "stalls": stalls(gaps),
        "decode_tps": (timed - 1) / decode_s if decode_s and timed is not None else None,
        "prefill_tps": prompt_n / prompt_ms * 1000 if prompt_n and prompt_ms and not reading.cached_tokens else None,
    }


def _error(failure: StreamError) -> Error:
    return Error(kind=failure.kind, message=failure.message, retry_after_s=failure.retry_after_s)


def _timings(timings: Mapping[str, Any]) -> Timings:
    return Timings(
        prompt_n=_whole(timings.get("prompt_n")),
        prompt_ms=timings.get("prompt_ms"),
        predicted_n=_whole(timings.get("predicted_n")),
        predicted_ms=timings.get("predicted_ms"),
        cache_n=_whole(timings.get("cache_n")),
    )


def _whole(value: float | None) -> int | None:
    """A number of tokens, which JSON may hold as 5.0."""
    return None if value is None else int(value)


def _wrong_length(request: Request, reading: Reading, output: float | None) -> StreamError | None:
    wanted = request.output_tokens if request.stream else None
    if wanted is not None:
        known = output if output is not None or reading.tokens else 0
        stopped = reading.finish_reason in STOP_REASONS and not request.exact_output
        if (request.exact_output and known is None) or (known is not None and known < wanted and not stopped):
            number = "an unknown number" if known is None else f"{known:g}"
            return StreamError("short", f"{number} of {wanted} output tokens ({reading.finish_reason})")
    if request.prompt_tokens is not None:
        timings = reading.timings or {}
        seen = _from_timings(timings) if "prompt_n" in timings else reading.prompt_tokens
        if seen != request.prompt_tokens:
            return StreamError("protocol", f"the server saw {seen} of {request.prompt_tokens} prompt tokens")
    return None


def _prompt_tokens(reading: Reading) -> int | None:
    timings = reading.timings or {}
    if reading.prompt_tokens is None and "prompt_n" in timings:
        return _from_timings(timings)
    return reading.prompt_tokens


def _from_timings(timings: Mapping[str, float]) -> int:
    return int(timings["prompt_n"] + timings.get("cache_n", 0))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
