"""Earlier runs of a run's target: their table and figure, and how this run moved.

past = frames.history(record, Path("results"))
earlier_runs.listed(past)
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from nexus_tasks.core.text import MISSING, minute, number, percent
from nexus_tasks.reports.drawing import BLUE, HALF_IN, ORANGE, axis_title, block, drawing, side_by_side
from nexus_tasks.reports.frames import Change, History
from nexus_tasks.reports.markup import Block, Cell, Column, Rows, note, table
from nexus_tasks.stats.metrics import DECODE, ITL, OUTPUT, PREFILL, TTFT, Metric

MEASURES = (OUTPUT, TTFT, ITL, DECODE, PREFILL)


def listed(past: History) -> Block:
    """This run and earlier ones of its target, and how this one moved."""
    if len(past.runs) == 1:
        lines = ["No earlier run of this target."]
    elif not past.changes:
        lines = [_nothing_to_compare(past)]
    else:
        lines = []
    columns = [
        Column("Run", "UTC", numeric=False),
        Column("Workload", numeric=False),
        Column("Load", numeric=False),
        Column("Model", numeric=False),
        Column("Build", numeric=False),
        *(Column.of(metric) for metric in MEASURES),
    ]
    rows: Rows = []
    for position, row in enumerate(past.runs.to_dict("records")):
        tone = "" if row["comparable"] else "muted"
        which = ["this run"] if position == 0 else []
        which += [] if row["ok"] else ["not ok"]
        texts = [
            row["workload"],
            row["load"],
            row["model"],
            row["build"] + (" (other options)" if row["argv_changed"] else ""),
            *(figure_of(row, metric) for metric in MEASURES),
        ]
        when = Cell(minute(row["started_at"]), tone, detail=", ".join(which))
        rows.append([when, *(Cell(text, tone) for text in texts)])
        if position == 0 and past.changes:
            changes = [
                change_cell(metric, past.changes.get(metric.key)) or Cell(MISSING, "muted") for metric in MEASURES
            ]
            rows.append([Cell("change since the last like it", "muted"), *[Cell("")] * 4, *changes])
    lines += [f"Left out, unreadable: {line}" for line in past.unread]
    caption = (
        "Medians, and the best throughput. Grey runs had another workload, load or model. A change is coloured when "
        "the intervals of the two medians, each widened by the drift that comparisons assume, don't overlap; otherwise "
        "it may be noise."
    )
    return Block("".join(note(line).html for line in lines) + table(columns, rows, caption).html)


def _nothing_to_compare(past: History) -> str:
    if not past.runs["comparable"].iloc[1:].any():
        return "No earlier run of this target had the same workload, load and model."
    return "Of this run and the earlier ones like it no two are valid and finished, so no change is told."


def figure_of(row: Mapping[Hashable, Any], metric: Metric) -> str:
    """The main figure of a metric, as text; ``row`` is of :func:`nexus_tasks.reports.frames.run`."""
    return number(row[metric.key] if metric.key in row else row[f"{metric.key}_median"])


def change_cell(metric: Metric, change: Change | None) -> Cell | None:
    """The change of a metric, coloured where it is distinct; None where it is not known."""
    if change is None:
        return None
    better = (change.percent > 0) == metric.higher_is_better
    return Cell(percent(change.percent), ("good" if better else "bad") if change.distinct else "muted")


def trends(past: History) -> Block:
    """Medians of this run and of the earlier ones that compare, with their ranges, oldest first."""
    comparable = past.runs[past.runs["comparable"]].iloc[::-1].reset_index(drop=True)
    plots = [
        _trend(comparable, metric, colour)
        for metric, colour in ((DECODE, ORANGE), (TTFT, BLUE))
        if comparable[f"{metric.key}_median"].count() > 1
    ]
    return side_by_side(*plots) if plots else Block("")


def _trend(past: pd.DataFrame, metric: Metric, colour: str) -> Block:
    name = metric.key
    median = past[f"{name}_median"]
    with drawing(HALF_IN, 2.5) as figure:
        axes = figure.subplots()
        axes.vlines(past.index, past[f"{name}_min"], past[f"{name}_max"], color=colour, alpha=0.45, linewidth=3)
        axes.plot(past.index, median, "-o", color=colour, markersize=4.5)
        axes.set_ylim(bottom=0, top=float(past[f"{name}_max"].max()) * 1.12)
        axes.set_xlim(-0.5, len(past) - 0.5)
        axes.grid(False, axis="x")
        step = -(-len(past) // 5)
        shown = range((len(past) - 1) % step, len(past), step)
        axes.set_xticks(list(shown), [f"{past['started_at'][i]:%d %b\n%H:%M}" for i in shown])
        axes.set_title(axis_title(metric))
        return block(
            figure,
            f"history-{name}",
            alt=f"{metric.title} over {len(past)} past, from {number(median.iloc[0], metric.unit)} to "
            f"{number(median.iloc[-1], metric.unit)}.",
            caption="Medians with their range; the last point is this run. Times in UTC.",
            width="half",
        )
