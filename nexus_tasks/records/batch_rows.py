"""Rows of a batch's record, schema 1; docs/records.md says what each key means.

A record is bounded in size, whatever the number of its rows: what is counted is exact, and of single requests it has a
sample. As in :mod:`nexus_tasks.records.benchmark_rows`, a field with a default may be missing in a file. Moments are
seconds of work: the time in which no process worked on the job is left out.
"""

from __future__ import annotations

from typing import Any

from nexus_tasks.records.benchmark_rows import Energy, Header, Machine, Part

COMPLETE, INTERRUPTED, CANCELLED = "complete", "interrupted", "cancelled"
"""Outcomes of a batch so far; any other is the line of the error that stopped it."""


class Job(Part, kw_only=True):
    """The job, of which each record tells all so far: ``name`` and ``created_at`` are those of all its records."""

    name: str
    folder: str
    created_at: str


class Input(Part, kw_only=True):
    """The input file. ``items`` are the requests that its rows become: as many as samples of each are wanted."""

    name: str
    format: str
    rows: int
    items: int
    sha256: str


class BatchHeader(Header, kw_only=True, tag_field="type", tag="header"):
    """The first row of a batch: what was asked (``asking``), in what way (``running``), and of whom (``targets``)."""

    job: Job
    input: Input
    asking: dict[str, Any]
    running: dict[str, Any]
    targets: list[str]
    client: Machine


class EndpointRow(Part, kw_only=True, tag_field="type", tag="endpoint"):
    """One endpoint, over all of the job.

    ``requests`` are those sent, ``answered`` and ``failed`` their ends; tokens are of all answers, None where the
    server counts none. ``busy_share`` is the mean share (0-1) of its slots at work while there was more to begin.
    """

    endpoint: str
    model: str | None
    build: str | None
    slots: int | None
    requests: int
    answered: int
    failed: int
    prompt_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    busy_share: float | None


class IntervalRow(Part, kw_only=True, tag_field="type", tag="interval"):
    """An interval of the work of one endpoint: ``output_tokens`` are spread over the times of their answers."""

    endpoint: str
    t_s: float
    width_s: float
    answered: int
    failed: int
    output_tokens: float


class SessionRow(Part, kw_only=True, tag_field="type", tag="session"):
    """A process that worked on the job. ``ended`` is its outcome; None where it was killed, or works on."""

    t_s: float
    started_at: str
    seconds: float
    ended: str | None


class Example(Part, kw_only=True):
    """A row of the input by which a cause shows: its line, and what was said of it."""

    line: int | None
    id: str | None
    message: str


class FailureRow(Part, kw_only=True, tag_field="type", tag="failure"):
    """Failures of one kind: ``set_aside`` items that are given up for it, and ``attempts`` that were made again."""

    kind: str
    set_aside: int
    attempts: int
    examples: list[Example]


class ServerRow(Part, kw_only=True, tag_field="type", tag="server"):
    """Rows that one build and model at one endpoint answered: how many, and the first and the last of their lines."""

    endpoint: str
    model: str
    build: str | None
    slots: int | None
    n_ctx: int | None
    answered: int
    first_line: int | None
    last_line: int | None


class Reason(Part, kw_only=True):
    """A reason of answers that don't satisfy their schema."""

    reason: str
    answers: int
    examples: list[Example]


class SchemaRow(Part, kw_only=True, tag_field="type", tag="schema"):
    """Answers that were held against one schema."""

    name: str
    checked: int
    valid: int
    reasons: list[Reason]


class RequestRow(Part, kw_only=True, tag_field="type", tag="request"):
    """An answered request of the sample from which distributions are drawn; each had the same chance."""

    item: int
    endpoint: str
    latency_ms: float
    ttft_ms: float | None
    decode_tps: float | None
    prompt_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    finish_reason: str | None


class AnswerRow(Part, kw_only=True, tag_field="type", tag="answer"):
    """An answer of the few that are kept; ``prompt`` is what was asked last. Long ones are cut: ``_letters`` tells."""

    item: int
    line: int | None
    id: str | None
    prompt: str | None
    prompt_letters: int
    answer: str
    answer_letters: int
    endpoint: str
    model: str
    output_tokens: int | None
    finish_reason: str | None
    valid: bool | None
    invalid_reason: str | None


class JobEnergy(Energy, kw_only=True):
    """Energy of the servers' GPUs over all sessions; ``at_least`` where it is not known of all, or not all the time."""

    at_least: bool


class BatchSummary(Part, kw_only=True, tag_field="type", tag="summary"):
    """The last row of a batch: how its items stand, and what it took so far.

    ``ok`` says that every item has its answer. ``outcome`` is one of those above, or an error's line. ``items`` are
    ``answered`` (``twins`` of them by the answer to an identical request), ``set_aside`` or ``left``. ``requests`` were
    sent, ``repeated`` of them for an item that had been sent before.
    """

    finished_at: str = ""
    ok: bool
    outcome: str
    items: int
    answered: int
    twins: int
    set_aside: int
    left: int
    requests: int
    repeated: int
    prompt_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    seconds: float
    items_per_s: float | None
    output_tps: float | None
    total_tps: float | None
    finish_reasons: dict[str, int]
    sampled: int
    sampled_of: int
    energy: JobEnergy | None = None


BatchRow = EndpointRow | IntervalRow | SessionRow | FailureRow | ServerRow | SchemaRow | RequestRow | AnswerRow
"""The rows between header and summary."""
