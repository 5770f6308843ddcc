"""Tables of a target's history: its top, what was changed between runs, and the runs.

tables.head(past)
tables.listed(past, 60)
"""

from __future__ import annotations

from typing import Any

from nexus_tasks.core.text import MISSING, minute, moment, number
from nexus_tasks.reports.earlier_runs import MEASURES, figure_of
from nexus_tasks.reports.markup import Block, Cell, Column, Rows, fill, note, table
from nexus_tasks.reports.pages.history import sentences
from nexus_tasks.reports.pages.history.past import Past
from nexus_tasks.stats.metrics import DECODE, PREFILL, TOTAL, TTFT


def head(past: Past) -> Block:
    """The top of the page."""
    runs = past.runs
    last = runs.to_dict("records")[-1]
    bad = int((~runs["ok"]).sum())
    tiles: list[dict[str, Any]] = []
    for metric in (DECODE, TTFT, PREFILL, TOTAL):
        median, low, high = (last[f"{metric.key}_{part}"] for part in ("median", "low", "high"))
        if median == median and len(tiles) < 3:
            tiles.append(
                {"label": f"{metric.title.removesuffix(' of a request')}, last run", "value": number(median),
                 "unit": metric.unit, "detail": f"{number(low)} to {number(high)}", "change": None}
            )  # fmt: skip
    counts = {
        "Runs": (str(len(runs)), f"{bad} not ok" if bad else "all ok"),
        "Changes": (str(len(past.marks)), "between runs"),
    }
    tiles += [
        {"label": k, "value": v, "unit": "", "detail": detail, "change": None} for k, (v, detail) in counts.items()
    ]
    return fill(
        "blocks/head.html",
        kicker=f"History · as of {moment(last['started_at'])}",
        target=past.target,
        title=past.target,
        subtitle="over time",
        subject=f"{last['model']}, {last['build']}",
        tone="good" if last["ok"] else "bad",
        badge="ok" if last["ok"] else "not ok",
        sentences=sentences.opening(past),
        tiles=tiles,
        since="",
    )


def changes(past: Past) -> Block:
    """The table of what was changed between runs, oldest first."""
    if not past.marks:
        return note(sentences.unchanged(past.runs))
    columns = [
        Column("", numeric=False),
        Column("First run with it", "UTC", numeric=False),
        Column("Changed", numeric=False),
    ]
    return table(columns, [[mark["letter"], minute(mark["at"]), mark["what"]] for mark in past.marks])


def listed(past: Past, limit: int) -> Block:
    """The last runs, newest first."""
    drivers = past.runs["driver"].notna().any()
    columns = [
        Column("Run", "UTC", numeric=False), Column("Workload", numeric=False), Column("Load", numeric=False),
        Column("Model", numeric=False), Column("Build", numeric=False),
        *([Column("Driver", numeric=False)] if drivers else []),
        *(Column.of(metric) for metric in MEASURES),
    ]  # fmt: skip
    rows: Rows = []
    for row in past.runs.iloc[::-1].head(max(limit, 0)).to_dict("records"):
        tone = "" if row["ok"] else "bad"
        rows.append(
            [
                Cell(minute(row["started_at"]), tone, f"../benchmark/{row['file']}.html",
                     _text(row["tag"], "")),
                row["workload"], row["load"], row["model"], row["build"],
                *([_text(row["driver"])] if drivers else []),
                *(figure_of(row, metric) for metric in MEASURES),
            ]
        )  # fmt: skip
    left_out = len(past.runs) - len(rows)
    caption = "Medians, and the best throughput. Red: a run that is not ok."
    return table(columns, rows, caption + (f" {left_out} older runs are not listed." if left_out else ""))


def _text(value: object, unknown: str = MISSING) -> str:
    return unknown if value is None or value != value else str(value)


def footer(past: Past) -> Block:
    """The foot: where the numbers come from."""
    return fill("blocks/history_footer.html", count=len(past.runs), target=past.target)
