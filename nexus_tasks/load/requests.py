"""Requests, the items that users work on, and stages of load with their limits.

    stage = Stage("closed", concurrency=16, requests=200, warmup=16)
    item = Item((Request("/completion", b'{"prompt": "a", "n_predict": 8, "stream": true}'),))

All of them are descriptions: :func:`nexus_tasks.load.generator.run` sends them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nexus_tasks.core.errors import UsageError
from nexus_tasks.servers import client

Body = bytes | Callable[[Sequence[str]], bytes]

CLOSED = "closed"
MODES = (CLOSED, "constant", "poisson", "burst")
"""A closed loop, and the arrivals of an open one."""


@dataclass(frozen=True)
class Request:
    """A request.

    Args:
        path: below the base URL: ``/completion``, ``/v1/chat/completions``, ``/v1/embeddings``, ``/v1/rerank``.
        body: JSON; or a function that makes it of the texts of the conversation's earlier answers.
        prompt_tokens: the number that the server must have seen; None where that is up to the server.
        output_tokens: the number asked for; fewer without a reason to stop is the failure ``short``.
        exact_output: fewer is ``short`` whatever the reason.
        stream: without it, the answer is one JSON document (embeddings, reranking).
        text: what is asked in words, where it has words; kept beside the answer.
    """

    path: str
    body: Body
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    exact_output: bool = False
    stream: bool = True
    text: str | None = None


@dataclass(frozen=True)
class Item:
    """A user's work: a request, or the turns of a conversation one after another.

    ``key`` is a stable name, by which the same prompt is found in another run.
    """

    requests: tuple[Request, ...]
    key: str | None = None


@dataclass(frozen=True)
class Stage:
    """A level of load.

    Args:
        mode: one of MODES.
        concurrency: users of the closed loop.
        rate_per_s: requests begun per second in an open loop (of conversations: the first of each).
        burst: requests that begin together; ``rate_per_s`` stays the mean rate.
        requests: how many count; or
        duration_s: the seconds in which requests that count begin, after warm-up and ramp. With both, whichever
            ends first.
        ramp_s: closed loop: the users start one after another within it; open: the rate grows linearly over it.
            Requests begun in it don't count (phase ``ramp``).
        warmup: so many first requests don't count (phase ``warmup``).
        seed: of the Poisson process.
    """

    mode: str
    concurrency: int | None = None
    rate_per_s: float | None = None
    burst: int | None = None
    requests: int | None = None
    duration_s: float | None = None
    ramp_s: float = 0.0
    warmup: int = 0
    seed: int = 0

    @property
    def is_closed_loop(self) -> bool:
        """True where the next request waits for an answer; in an open loop requests come at their rate regardless."""
        return self.mode == CLOSED


@dataclass(frozen=True)
class Limits:
    """Limits of patience: times in seconds, ``max_error_rate`` a share (0-1) of the requests that count."""

    connect_s: float = client.CONNECT_TIMEOUT_S
    token_s: float = 300.0
    request_s: float | None = None
    max_error_rate: float | None = None
    keep_answers: bool = False


def check(stage: Stage) -> None:
    """Refuse a stage that can't be run.

    Raises:
        UsageError: it contradicts itself.
    """
    closed = stage.is_closed_loop
    wrong = (
        f"the mode must be one of {', '.join(MODES)}, not {stage.mode!r}"
        if stage.mode not in MODES
        else "mode closed needs a concurrency of 1 or more"
        if closed and (stage.concurrency or 0) < 1
        else f"mode {stage.mode} needs a rate above 0"
        if not closed and not (stage.rate_per_s or 0) > 0
        else "mode burst needs a number of requests that begin together"
        if stage.mode == "burst" and (stage.burst or 0) < 1
        else "a stage must have a number of requests or a duration"
        if stage.requests is None and stage.duration_s is None
        else "requests, duration, ramp and warm-up must be 0 or more"
        if min(stage.requests or 0, stage.duration_s or 0, stage.ramp_s, stage.warmup) < 0
        else None
    )
    if wrong:
        raise UsageError(wrong, hint="see nox -s benchmark -- --help")
