"""Requests of a run: those that count, their answers, and the table of those that failed.

requests.failures(record)
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from nexus_tasks.core.text import number
from nexus_tasks.records.benchmark_rows import RequestRow
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import frames
from nexus_tasks.reports.markup import Block, Cell, Column, Rows, fill, table

LISTED_REQUESTS = 40  # more requests than this, and a table has those that stand out


def counted_rows(record: BenchmarkRecord) -> list[RequestRow]:
    """The requests that the figures are made of."""
    return [row for row in record.requests if row.ok and row.phase == "run"]


def answers_by_prompt(record: BenchmarkRecord) -> dict[tuple[str, int], RequestRow]:
    """The first counted row of each prompt that has an answer, by the prompt's key and turn."""
    answers: dict[tuple[str, int], RequestRow] = {}
    for row in counted_rows(record):
        if row.key is not None and row.answer is not None:
            answers.setdefault((row.key, row.turn), row)
    return answers


def failures(record: BenchmarkRecord) -> Block:
    """The requests that failed, with their causes; empty when none did."""
    failed = [row for row in frames.requests(record).to_dict("records") if not row["ok"]]
    if not failed:
        return Block("")
    rows: Rows = [
        [
            _name(row),
            number(row["start_s"]),
            Cell(str(row["error_kind"]), "bad"),
            str(row["error_message"]),
        ]
        for row in failed[:LISTED_REQUESTS]
    ]
    columns = [
        Column("Request", numeric=False),
        Column("Sent at", "s"),
        Column("Cause", numeric=False),
        Column("Message", numeric=False),
    ]
    return fill("blocks/failures.html", table=table(columns, rows).html, count=len(failed), shown=len(rows))


def _name(row: Mapping[Hashable, Any]) -> str:
    return f"{row['index']}" if row["phase"] == "run" else f"{row['index']} {row['phase'].replace('warmup', 'warm-up')}"
