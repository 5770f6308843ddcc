"""Failures of a batch's requests: what each says about its row and its endpoint, and when it is tried again.

problem = of_http(503, body, retry_after_s=2.0)
judge(problem)              # Verdict.ELSEWHERE: not the row's fault
backoff_s(attempts=3)       # exponential, with full jitter
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from dataclasses import dataclass

from nexus_tasks.servers import answers
from nexus_tasks.servers.answers import count_of, object_of

BACKOFF_S, MAX_BACKOFF_S = 0.5, 60.0
ALONE_FROM = 2
"""A row that was under way so often when its server died is asked alone from then on."""
MAX_CRASHES = 4
"""Deaths of servers after which the row that was under way is taken for their reason: the last of them alone."""
Chance = Callable[[], float]
"""A number from 0 to 1."""
_UNAUTHORIZED = (401, 403)
_ASK_AGAIN = (404, 405, 408, 409, 425)
"""Errors of a client's that may be those of an endpoint: another model there, or no such API."""
_BAD_REQUEST, _TOO_LARGE, _TOO_MANY, _UNAVAILABLE = 400, 413, 429, 503
_TOO_LONG = "exceed_context_size_error"
_INEXPRESSIBLE = ("JSON schema error", "failed to parse grammar")
"""llama-server's words for a schema, or a grammar, of which it can make no rules for decoding."""


@dataclass(frozen=True)
class Problem:
    """A failed attempt: ``kind`` is one of :data:`nexus_tasks.batches.entries.KINDS`, ``message`` one line."""

    kind: str
    message: str
    status: int | None = None
    retry_after_s: float | None = None


class Verdict(enum.Enum):
    """Consequence of a problem for its row."""

    AGAIN = "another attempt, of which there are only some"
    ELSEWHERE = "another attempt, that costs the row nothing: its endpoint is away"
    CUT = "the server hung up: whether it died shows when it is asked"
    NEVER = "set aside at once: another attempt would end the same"
    UNUSABLE = "another attempt elsewhere: this endpoint lets nobody in"


def judge(problem: Problem) -> Verdict:
    """The consequence of a problem."""
    match problem.kind:
        case "connect" | "rate_limited":
            return Verdict.ELSEWHERE
        case "disconnected":
            return Verdict.CUT
        case "too_long" | "refused" | "too_large" | "schema":
            return Verdict.NEVER
        case "unauthorized":
            return Verdict.UNUSABLE
        case _:
            return Verdict.ELSEWHERE if problem.status == _UNAVAILABLE else Verdict.AGAIN


def of_http(status: int, body: bytes, retry_after_s: float | None, *, coding: str | None = None) -> Problem:
    """The problem that an answer with another status than 200 tells of."""
    told = f"an answer in {coding}" if coding else answers.excerpt(body)
    try:
        document = answers.json_of(body)
    except ValueError:
        document = None
    return _problem(status, f"HTTP {status}: {told}", document, retry_after_s)


def of_stream(document: object, told: str) -> Problem:
    """The problem that an error within an answer tells of; ``told`` are the server's words."""
    status = count_of(object_of(object_of(document).get("error")).get("code"))
    if status is None or not 400 <= status < 600:
        return Problem("in_stream", told)
    return _problem(status, told, document, None, otherwise="in_stream")


def _problem(
    status: int, message: str, document: object, retry_after_s: float | None, *, otherwise: str = "http_status"
) -> Problem:
    error = object_of(object_of(document).get("error"))
    if error.get("type") == _TOO_LONG:
        return Problem("too_long", _too_long(error) or message, status)
    if status in _UNAUTHORIZED:
        return Problem("unauthorized", message, status)
    if status == _TOO_MANY or (status == _UNAVAILABLE and retry_after_s is not None):
        return Problem("rate_limited", message, status, retry_after_s)
    if status == _TOO_LARGE:
        return Problem("too_large", message, status)
    if status == _BAD_REQUEST and any(words in message for words in _INEXPRESSIBLE):
        return Problem("schema", message, status)
    if 400 <= status < 500 and status not in _ASK_AGAIN:
        return Problem("refused", message, status)
    return Problem(otherwise, message, status, retry_after_s)


def _too_long(error: dict[str, object]) -> str | None:
    prompt, context = count_of(error.get("n_prompt_tokens")), count_of(error.get("n_ctx"))
    if prompt is None or context is None:
        return None
    return f"the prompt has {prompt} tokens (n_prompt_tokens), and the context of a slot {context} (n_ctx)"


def backoff_s(
    attempts: int, *, first_s: float = BACKOFF_S, max_s: float = MAX_BACKOFF_S, chance: Chance = random.random
) -> float:
    """The pause before the next attempt after so many: exponential, with full jitter."""
    return chance() * min(first_s * 2.0 ** min(attempts, 16), max_s)
