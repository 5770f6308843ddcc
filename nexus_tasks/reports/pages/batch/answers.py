"""Answers on a batch's page: how long they took and are, how they ended, whether they satisfy their schema, and a few.

    answers.lengths(record)
    answers.structured(record)

Each takes a record of a batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nexus_tasks.core.text import MISSING, SPACE, number, whole
from nexus_tasks.records.batch_rows import AnswerRow, Reason, SchemaRow
from nexus_tasks.records.store import BatchRecord
from nexus_tasks.reports.distributions import FEW
from nexus_tasks.reports.frames import Floats
from nexus_tasks.reports.markup import Block, Cell, Column, Rows, fill, note, table
from nexus_tasks.reports.pages.batch import sentences, wording
from nexus_tasks.stats.metrics import DECODE, TOTAL, TTFT
from nexus_tasks.views import batch_runs

PARTS = {"median": 50, "p90": 90, "p95": 95, "p99": 99}
MEASURES = {
    "latency_ms": (TOTAL.title, "ms"),
    "ttft_ms": (TTFT.title, "ms"),
    "decode_tps": (DECODE.title, DECODE.unit),
    "prompt_tokens": ("Prompt", "tokens"),
    "cached_tokens": ("Of it from the cache", "tokens"),
    "output_tokens": ("Answer", "tokens"),
}


def lengths(record: BatchRecord) -> Block:
    """Statistics of the answered requests: how long they took, and how long they are."""
    columns = [Column("", numeric=False), Column("n"), *(Column(part) for part in ("min", *PARTS, "max"))]
    rows: Rows = []
    for key, (title, unit) in MEASURES.items():
        points = values(record, key)
        if not len(points) or not points.any():  # nothing came from a cache
            continue
        shown = whole if unit == "tokens" else number
        known = [rank == 50 or len(points) >= FEW for rank in PARTS.values()]
        middle = np.where(known, np.percentile(points, list(PARTS.values())), np.nan)
        figures = [points.min(), *middle, points.max()]
        rows.append([f"{title}, {unit}", f"{len(points):,}", *(shown(float(figure)) for figure in figures)])
    summary = record.summary
    sampled = summary is not None and summary.sampled < summary.sampled_of
    caption = f"Of {summary.sampled:,} requests, drawn from {summary.sampled_of:,}." if summary and sampled else ""
    return table(columns, rows, caption) if rows else Block("")


def ends(record: BatchRecord) -> Block:
    """The ways in which answers ended, by the servers' words."""
    reasons = record.summary.finish_reasons if record.summary else {}
    if not reasons:
        return Block("")
    total = sum(reasons.values())
    columns = [Column("Answers ended by", numeric=False), Column("Answers"), Column("Share")]
    rows: Rows = [
        [
            Cell(reason, detail="the limit of tokens: cut off" if reason == sentences.CUT else ""),
            f"{count:,}",
            wording.percent(count / total),
        ]
        for reason, count in reasons.items()
    ]
    return table(columns, rows)


def structured(record: BatchRecord) -> Block:
    """The rate of valid answers of each schema, and the reasons of the others; empty where there was no schema."""
    checked = [row for row in record.schemas if row.checked]
    if not checked:
        return Block("")
    columns = [Column("Schema", numeric=False), Column("Checked"), Column("Valid"), Column("Rate")]
    rows: Rows = []
    for row in checked:
        share, low, high = batch_runs.valid_share(row)
        bounds = f"{low * 100:.1f}\N{EN DASH}{high * 100:.1f}{SPACE}%"
        rows.append([row.name, f"{row.checked:,}", f"{row.valid:,}", Cell(wording.percent(share), detail=bounds)])
    invalid = [(row, reason) for row in checked for reason in row.reasons]
    return fill(
        "blocks/batch_structured.html",
        table=table(columns, rows, "Below a rate is its 95 % confidence interval (Wilson's).").html,
        reasons=[_reason(row, reason) for row, reason in invalid],
        several=len(checked) > 1,
    )


def samples(record: BatchRecord, limit: int) -> Block:
    """A few answers, drawn at random, each below what was asked."""
    shown = [
        {
            "key": wording.place(row.line, row.id) or f"request {row.item}",
            "asked": _cut(row.prompt, row.prompt_letters),
            "answers": [
                {
                    "name": batch_runs.model_name(row.model),
                    "facts": _facts(row),
                    "text": _cut(row.answer, row.answer_letters) or "(empty)",
                }
            ],
        }
        for row in record.answers[:limit]
    ]
    return fill("blocks/answers.html", prompts=shown, left_out=0) if shown else note("There is none.")


def values(record: BatchRecord, key: str) -> Floats:
    """A measure of the sampled requests, of those that have it."""
    return np.asarray([one for row in record.requests if (one := getattr(row, key)) is not None], dtype=np.float64)


def _reason(row: SchemaRow, reason: Reason) -> dict[str, Any]:
    return {
        "schema": row.name,
        "reason": reason.reason,
        "answers": f"{reason.answers:,}",
        "share": wording.percent(reason.answers / row.checked),
        "examples": wording.examples(reason.examples[:1]),
    }


def _facts(row: AnswerRow) -> str:
    verdict = "" if row.valid is None else "valid" if row.valid else f"not valid: {row.invalid_reason}"
    end = "cut off" if row.finish_reason == sentences.CUT else row.finish_reason or ""
    return ", ".join(filter(None, [whole(row.output_tokens, "tokens").strip(MISSING), end, row.endpoint, verdict]))


def _cut(text: str | None, letters: int) -> str:
    """A text as the record keeps it, with a word about what was cut."""
    if not text or letters <= len(text):
        return text or ""
    return f"{text}… ({letters - len(text):,} more letters)"
