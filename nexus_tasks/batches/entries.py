"""Entries of a batch's journal, typed: what was begun, what was answered, what failed.

Each entry is one line of the journal (:mod:`nexus_tasks.batches.journal`). An item's state is that of its last entry:

    (none) → Begun → Answered                        it has its result, for good
                   → Failed → Begun → …              an attempt that is made again
                   → SetAside → Reopened → Begun …   given up, until retry-failed
"""

from __future__ import annotations

from typing import Any

import msgspec

from nexus_tasks.stats.energy import EnergySum

KINDS = (
    "connect", "disconnected", "timeout", "stalled", "http_status", "protocol", "in_stream", "rate_limited",
    "too_long", "refused", "unauthorized", "malformed", "no_prompt", "template", "schema", "parameter", "too_large",
    "attempts", "crashes",
)  # fmt: skip
"""Kinds of failures; ``crashes`` is a row under way each time the batch or its server was killed."""


class Usage(msgspec.Struct, omit_defaults=True):
    """Tokens of a request by the server's own count; None where it doesn't say."""

    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None


class Answer(msgspec.Struct, omit_defaults=True):
    """The answer of a server, whole."""

    text: str | None = None
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    embedding: list[float] | None = None
    finish_reason: str | None = None


class Begun(msgspec.Struct, tag="begun", omit_defaults=True):
    """Requests are about to be sent, to one endpoint; written before them. ``at`` is the wall clock's, in seconds."""

    items: list[int]
    endpoint: str
    at: float


class Answered(msgspec.Struct, tag="answered", omit_defaults=True):
    """An item has its result. Times in milliseconds from sending; ``at`` is when it ended, by the wall clock.

    Args:
        key: of the request that was answered, in hexadecimal.
        model, build: of the server that answered.
        schema: name of the schema that the answer was held against (:func:`nexus_tasks.batches.items.schema_name`).
        valid: whether the answer satisfies its schema; None without one.
        invalid_reason: of an answer that does not.
        same_as: the item whose answer this is, where identical requests are answered once.
        decode_tps: tokens per second by the server's own timings.
    """

    item: int
    key: str
    endpoint: str
    model: str
    build: str | None
    at: float
    latency_ms: float
    answer: Answer
    usage: Usage
    ttft_ms: float | None = None
    decode_tps: float | None = None
    schema: str | None = None
    valid: bool | None = None
    invalid_reason: str | None = None
    attempts: int = 1
    same_as: int | None = None


class Failed(msgspec.Struct, tag="failed", omit_defaults=True):
    """An attempt failed, and another will be made."""

    item: int
    endpoint: str
    at: float
    kind: str
    message: str


class SetAside(msgspec.Struct, tag="set_aside", omit_defaults=True):
    """An item is given up, with its reason. ``endpoint`` is that of the last attempt; None where it was never sent."""

    item: int
    at: float
    kind: str
    message: str
    attempts: int = 0
    endpoint: str | None = None


class Reopened(msgspec.Struct, tag="reopened", omit_defaults=True):
    """Items are to be asked anew: those that were set aside (retry-failed), or whose request or model changed."""

    items: list[int]
    at: float
    why: str


class Server(msgspec.Struct, tag="server", omit_defaults=True):
    """An endpoint as it was found: when the batch began, resumed, and whenever it came back as another."""

    endpoint: str
    at: float
    model: str
    build: str | None
    slots: int | None
    n_ctx: int | None


class Session(msgspec.Struct, tag="session", omit_defaults=True):
    """A process begins to work on the job (``ended`` is None), or has ended its work.

    ``ended`` is ``complete``, ``interrupted``, ``cancelled`` or an error's line. ``energy`` is what GPUs of the servers
    took meanwhile; None where nothing is known of it.
    """

    at: float
    ended: str | None = None
    energy: EnergySum | None = None


Entry = Begun | Answered | Failed | SetAside | Reopened | Server | Session
