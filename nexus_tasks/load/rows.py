"""Request rows, as records have them. Time to first token and inter-token latency are defined here.

All moments are seconds on one clock, that of ``time.perf_counter``.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
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


LENGTH_REASONS = (
    "length", "limit", "max_tokens", "max_length", "max_new_tokens", "max_output_tokens", "model_length", "token_limit",
    "context_length",
)  # fmt: skip
"""Finish reasons that say that the answer was cut at a length, in small letters. Others, as ``stop``, ``eos_token``,
``end_turn`` or ``COMPLETE``, are the model's own end, which may come before the length that it was given."""
MAX_UNSEEN = 0.1
"""The largest share of the tokens that no event carried, beside one: that which ends an answer has no text."""
MIN_ARRIVALS = 0.6
"""The least share of the tokens that arrived alone, of more than two."""
MIN_WINDOW = 0.7
"""The least share of the server's own decode time that lies between the arrivals of the first token and the last."""
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
    untimed = _untimed(request, reading, output)
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
        **_latencies(
            reading, intended, sent, reading.end if reading.end is not None else ended,
            timed=_timed_tokens(request, reading, output), is_timed=untimed is None,
        ),
        untimed=untimed,
        server=_timings(timings) if timings else None,
        backend=reading.backend,
    )  # fmt: skip


def uncounted_sentence(rows: Iterable[RequestRow]) -> str | None:
    """That a server does not say how many tokens it generated; None where it does."""
    good = [row for row in rows if row.ok and row.phase == "run" and row.ttft_ms is not None]
    lacking = [row for row in good if row.output_tokens is None]
    if not lacking:
        return None
    return (
        f"the server does not say how many tokens {len(lacking):,} of {len(good):,} answers have: "
        "tokens per second are unknown, and levels of load are compared by requests per second"
    )


def untimed_sentence(rows: Iterable[RequestRow]) -> str | None:
    """The answers without a decode speed, and why the first of them has none; None where each has one."""
    good = [row for row in rows if row.ok and row.phase == "run"]
    lacking = [row for row in good if row.untimed]
    if not lacking:
        return None
    return (
        f"{len(lacking):,} of {len(good):,} answers have no decode speed and no ITL, because nobody saw when their "
        f"tokens came: of request {lacking[0].index}, {lacking[0].untimed}"
    )


def ttft_ms(reading: Reading, intended: float) -> float | None:
    """Time to first token (TTFT): from when a request should have begun to the arrival of its first token.

    Tokens of reasoning count. In a closed loop a request should begin when it is sent; in an open loop when it is due,
    so that a server or a client that falls behind can't hide it (coordinated omission). None where no token came.
    """
    return _ms(reading.tokens[0] - intended) if reading.tokens else None


def itl_ms(reading: Reading) -> list[float]:
    """Inter-token latencies (ITL): the gaps between the arrivals of tokens; one less than there are tokens."""
    moments = np.array(reading.tokens)
    gaps: list[float] = ((moments[1:] - moments[:-1]) * 1000).round(3).tolist()
    return gaps


def stalls(gaps: Sequence[float]) -> int:
    """The number of gaps (ms) far out of the ordinary: above 500 ms and 10 times the median of their request."""
    if not gaps or max(gaps) <= STALL_MS:
        return 0
    bound = max(STALL_MS, STALL_FACTOR * statistics.median(gaps))
    return sum(gap > bound for gap in gaps)


def _untimed(request: Request, reading: Reading, output: float | None) -> str | None:
    """The reason for which nobody knows when the tokens of an answer came; None where their events carried them.

    Such an answer has neither a decode speed nor an ITL: its tokens were kept back, by the server (reasoning that it
    does not show, many tokens in an event) or on the way (a proxy that buffers).
    """
    tokens = reading.tokens
    if reading.end is None or not tokens:
        return None
    if output is None and _is_cut(reading):
        output = request.output_tokens  # it says that it went that far
    carried, arrivals = len(tokens), len(set(tokens))
    # llama-server's own completions say how many tokens each event brings.
    known = output is not None and request.path != COMPLETION
    lacks = known and output is not None and output - carried > 1 + MAX_UNSEEN * output
    came_together = carried > 2 and arrivals < MIN_ARRIVALS * carried
    if not (lacks or came_together):
        return None
    timings = reading.timings or {}
    decoded, decoded_ms = timings.get("predicted_n"), timings.get("predicted_ms")
    if decoded and decoded_ms:
        # It may draft tokens, or hold back halves of letters: the window is whole all the same.
        window_ms = (tokens[-1] - tokens[0]) * 1000
        if window_ms >= MIN_WINDOW * decoded_ms * (decoded - 1) / decoded:
            return None
        return f"its tokens came within {window_ms:.0f} ms, and the server took {decoded_ms:.0f} ms to decode them"
    if lacks:
        return f"its events carried {carried} of its {output:g} tokens"
    return f"its {carried} tokens came in {arrivals} piece{'s' if arrivals > 1 else ''}"


def _timed_tokens(request: Request, reading: Reading, output: float | None) -> float | None:
    """The tokens that came after the first moment: those of that moment belong to the prefill."""
    tokens = reading.tokens
    if not tokens:
        return None
    count: float | None = len(tokens)
    if request.path != COMPLETION:  # elsewhere an event is an event; llama-server's timings count what it carried
        count = output if output is None or reading.timings else min(output, len(tokens))
    return None if count is None else count - tokens.count(tokens[0])


def _is_cut(reading: Reading) -> bool:
    return (reading.finish_reason or "").casefold() in LENGTH_REASONS


def _latencies(
    reading: Reading, intended: float, sent: float, ended: float, *, timed: float | None, is_timed: bool
) -> dict[str, Any]:
    """Times and speeds.

    Args:
        timed: tokens that came after the first moment, in the time from the first token to the last.
        is_timed: whether the tokens have moments of their own.
    """
    tokens = reading.tokens
    timings = reading.timings or {}
    decode_s = tokens[-1] - tokens[0] if tokens and reading.end is not None and is_timed else None
    prompt_n, prompt_ms = timings.get("prompt_n"), timings.get("prompt_ms")
    gaps = itl_ms(reading) if is_timed else []
    return {
        "ttft_ms": ttft_ms(reading, intended),
        "ttft_visible_ms": _ms(reading.visible - intended) if reading.visible is not None else None,
        "queue_ms": round((tokens[0] - sent) * 1000 - prompt_ms, 3) if tokens and prompt_ms is not None else None,
        "decode_ms": _ms(decode_s) if decode_s is not None else None,
        "total_ms": _ms(ended - intended),
        "tpot_ms": round(decode_s * 1000 / timed, 4) if decode_s and timed else None,
        "itl_ms": gaps,
        "stalls": stalls(gaps),
        "decode_tps": timed / decode_s if decode_s and timed else None,
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
        stopped = reading.finish_reason is not None and not _is_cut(reading) and not request.exact_output
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
