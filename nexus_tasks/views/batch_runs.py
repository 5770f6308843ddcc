"""Views of a batch's record: the verdict, names, and the words for what can fail.

batch_runs.verdict(record)                   ("bad", "13 of 400 rows failed")
batch_runs.badge(record)                     "13 failed"
batch_runs.newest(records)                   of each job the last, which tells all of the others
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from nexus_tasks.core.text import SPACE, plural
from nexus_tasks.records.batch_rows import CANCELLED, COMPLETE, INTERRUPTED, SchemaRow
from nexus_tasks.records.store import BatchRecord
from nexus_tasks.stats.proportions import wilson

CAUSES = {
    "connect": "no connection to the server",
    "disconnected": "connection lost during an answer",
    "timeout": "answer took too long",
    "stalled": "server fell silent",
    "http_status": "error of the server",
    "protocol": "answer that is none",
    "in_stream": "error within an answer",
    "rate_limited": "server refused for too much load",
    "too_long": "prompt longer than the context",
    "refused": "request refused",
    "unauthorized": "key refused",
    "malformed": "row that can't be read",
    "no_prompt": "row without a prompt",
    "template": "template without a value",
    "schema": "schema that can't be used",
    "parameter": "parameter that can't be used",
    "too_large": "row that is too large",
    "attempts": "too many failed attempts",
    "crashes": "under way at several crashes",
}
"""The kinds of failures in words."""


def verdict(record: BatchRecord) -> tuple[str, str]:
    """Verdict about a batch so far: a tone (good, bad, or muted while it can go on) and a sentence without its stop."""
    summary, rows = record.summary, noun(record)
    if summary is None:
        return "bad", "The record was cut off while it was written"
    if not summary.items:
        return "bad", f"There was no {rows} to answer"
    if summary.left:
        tone = "muted" if summary.outcome in (INTERRUPTED, CANCELLED, COMPLETE) else "bad"
        how = {INTERRUPTED: "Interrupted", COMPLETE: "Not finished", CANCELLED: "Cancelled"}
        stopped = how.get(summary.outcome, f"Stopped ({summary.outcome.rstrip('.')})")
        return tone, f"{stopped}: {summary.left:,} of {plural(summary.items, rows)} left"
    every = f"All {plural(summary.items, rows)}" if summary.items > 1 else f"The {rows}"
    if not summary.answered:
        return "bad", f"{every} failed"
    if summary.set_aside:
        return "bad", f"{summary.set_aside:,} of {plural(summary.items, rows)} failed"
    return "good", f"{every} {'were' if summary.items > 1 else 'was'} answered"


def badge(record: BatchRecord) -> str:
    """The verdict in a word or two."""
    summary = record.summary
    if summary is None:
        return "cut short"
    if summary.left:
        done = (summary.items - summary.left) / summary.items
        return f"{min(int(done * 100), 99)}{SPACE}% done"
    if not summary.answered:
        return "all failed" if summary.items else "empty"
    return f"{summary.set_aside:,} failed" if summary.set_aside else "ok"


def noun(record: BatchRecord) -> str:
    """The word for what a batch answers: rows, or requests where each row has several samples."""
    told = record.header.input
    return "row" if told.rows == told.items else "request"


def models(record: BatchRecord) -> list[str]:
    """Names of the models that answered, those with most rows first."""
    answered = sorted(record.servers, key=lambda row: -row.answered)
    names = [row.model for row in answered if row.answered] or [row.model for row in answered]
    return list(dict.fromkeys(map(model_name, names)))


def model_name(name: str) -> str:
    """Name of a model for readers: of a path its last part."""
    return name.rpartition("/")[2] if name.endswith(".gguf") else name


def cause(kind: str) -> str:
    """A kind of failures in words."""
    return CAUSES.get(kind, kind)


def valid_share(row: SchemaRow) -> tuple[float, float, float]:
    """The share (0-1) of valid answers of a schema, and its 95 % confidence interval."""
    share = row.valid / row.checked
    return share, *wilson(share, row.checked)


def told_at(record: BatchRecord) -> datetime:
    """The moment up to which a record tells of its job."""
    return datetime.fromisoformat(record.summary.finished_at) if record.summary else record.started_at


def newest(records: Iterable[BatchRecord]) -> list[BatchRecord]:
    """The last record of each job, in order, without what its own page alone needs: all may be larger than memory."""
    last = {
        (one.header.job.name, one.header.job.created_at): replace(one, intervals=[], requests=[], answers=[])
        for one in records
    }
    return sorted(last.values(), key=lambda one: one.path.name)
