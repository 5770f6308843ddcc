"""Levels of load of a run: users at a time, requests per second, or the length of prompts.

stages = frames.stages(record)
levels.knee_of(record, stages)["name"]     "concurrency 8"
levels.listed(record)                      the table of all levels
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from nexus_tasks.core.text import number, plural
from nexus_tasks.records.benchmark_rows import StageRow
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import frames
from nexus_tasks.reports.markup import Block, Cell, Column, Rows, table
from nexus_tasks.stats.metrics import DECODE, ITL, OUTPUT, PREFILL, REQUESTS, TOTAL, TTFT, Metric
from nexus_tasks.views import runs

Level = dict[Any, Any]  # a row of frames.stages


def headline(record: BenchmarkRecord) -> StageRow:
    """The level that the first sentence and the tiles speak of: a sweep's knee, the longest prompts, most output."""
    stages = runs.stages(record)
    frame = frames.stages(record)
    if runs.axis(record) == "prompt_tokens":
        chosen = rows(frame)[-1]["stage"]
    elif runs.swept(record):
        chosen = (knee_of(record, frame) or rows(frame)[0])["stage"]
    else:
        chosen = best(frame)["stage"]
    return next(row for row in stages if row.stage == chosen)


def knee_of(record: BenchmarkRecord, stages: pd.DataFrame) -> Level | None:
    """The level at saturation: as the summary says, else the first whose throughput is within 5 % of the most.

    None where no level had any: a sweep that failed has no knee, whatever was written of it.
    """
    named = record.summary.knee if record.summary else None
    rate = stages[throughput(stages).key]
    if not rate.max() > 0:
        return None
    levels = [level for level in rows(stages) if level["stage"] == named]
    return (levels or rows(stages[rate >= 0.95 * rate.max()]))[0]


def rows(stages: pd.DataFrame) -> list[Level]:
    """The rows of :func:`nexus_tasks.reports.frames.stages`."""
    return [dict(row) for row in stages.to_dict("records")]


def best(stages: pd.DataFrame) -> Level:
    """The level with the highest throughput."""
    rates = stages[throughput(stages).key].fillna(-1.0).to_numpy()
    return rows(stages)[int(rates.argmax())]


def throughput(stages: pd.DataFrame) -> Metric:
    """The metric that throughput is: output tokens per second, or requests where answers have no tokens."""
    return OUTPUT if (stages[OUTPUT.key] > 0).any() else REQUESTS


def meets(record: BenchmarkRecord, stages: pd.DataFrame) -> pd.Series:
    """The levels that meet every SLO of the run in 95 % of their requests, or in all where they are few."""
    return stages["goodput_share"] >= 0.95


def listed(record: BenchmarkRecord) -> Block:
    """Every level in a row: what came out, how long it took, how many met the SLOs, and whether it is valid."""
    stages = frames.stages(record)
    if len(stages) < 2:
        return Block("")
    at_knee = knee_of(record, stages) if runs.swept(record) else None
    knee = at_knee["stage"] if at_knee else None
    shown = {OUTPUT.key: Column.of(OUTPUT), REQUESTS.key: Column.of(REQUESTS, "per s")}
    shown |= {metric.key: Column.of(metric, f"median, {metric.unit}") for metric in (TTFT, ITL, TOTAL)}
    shown |= {DECODE.key: Column.of(DECODE, f"each, {DECODE.unit}"), PREFILL.key: Column.of(PREFILL)}
    columns_of = {name: name if name in stages else f"{name}_median" for name in shown}
    shown = {name: column for name, column in shown.items() if stages[columns_of[name]].max() > 0}
    goals = bool(record.header.load.slo)
    columns = [
        Column("Level", numeric=False),
        Column("Requests", "warm-up too"),
        *shown.values(),
        *([Column("Met SLOs", "%")] if goals else []),
        Column("Told", numeric=False),
    ]
    table_rows: Rows = []
    for row in rows(stages):
        remarks = [
            "the knee" if row["stage"] == knee else "",
            f"{row['failed']} failed" if row["failed"] else "",
            f"{row['short']} short" if row["short"] else "",
            plural(row["stalls"], "stall") if row["stalls"] else "",
            "" if row["valid"] else "not valid",
        ]
        amiss = row["failed"] or row["short"] or not row["valid"]
        share = row["goodput_share"] * 100
        cells = []
        for name in shown:
            tail = row.get(f"{name}_p95", float("nan")) if name.endswith("_ms") else float("nan")
            cells.append(Cell(number(row[columns_of[name]]), detail=f"p95 {number(tail)}" if tail == tail else ""))
        table_rows.append(
            [
                row["name"],
                f"{row['requests']:,}",
                *cells,
                *([Cell(f"{share:.0f}" if share == share else "", "good" if share >= 95 else "bad")] if goals else []),
                Cell(", ".join(filter(None, remarks)), "bad" if amiss else ""),
            ]
        )
    return table(columns, table_rows)
