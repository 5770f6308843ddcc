"""The tables and figures of a target's history: every run of it, with what was changed between them.

past = history_blocks.read(paths)
history_blocks.head(past)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.ticker import Formatter, Locator

from nexus_tasks.core.text import MISSING, minute, moment, number
from nexus_tasks.records import store
from nexus_tasks.records.store import Row
from nexus_tasks.reports import frames, stories
from nexus_tasks.reports.blocks import METRICS
from nexus_tasks.reports.figures import BLUE, GREEN, ORANGE, PURPLE, WIDE_IN, block, drawing
from nexus_tasks.reports.markup import Block, Cell, Column, Rows, fill, note, table

CHANGES = {"model": "model", "release": "release", "build": "build", "driver": "driver", "argv_sha256": "options"}
PANELS = {
    "decode_tps": ("Decode rate of a request, tokens/s", ORANGE),
    "ttft_ms": ("Time to first token, ms", BLUE),
    "prefill_tps": ("Prefill by the server's clock, tokens/s", GREEN),
    "total_ms": ("Whole request, ms", BLUE),
}
SERIES_DRAWN = 4  # workloads; more, and the page has no end


@dataclass(frozen=True)
class Past:
    """All runs of a target, oldest first, and what was changed between them: ``at``, ``what`` and a ``letter``."""

    target: str
    runs: pd.DataFrame
    marks: Sequence[Row]


def read(paths: Sequence[str]) -> Past:
    """The history that these records tell.

    Raises:
        RecordError: a record is damaged.
    """
    runs = frames.target(store.load(Path(path)) for path in paths)
    return Past(str(runs["target"].iloc[-1]), runs, marks(runs))


def marks(runs: pd.DataFrame) -> list[Row]:
    """What was another than in the run before; what a record doesn't know is taken as unchanged."""
    found: list[Row] = []
    known: dict[str, object] = {}
    for row in runs.to_dict("records"):
        changed: list[str] = []
        for key, word in CHANGES.items():
            value = row[key]
            if value is None or value != value or value == "unknown":
                continue
            if key in known and known[key] != value and not (key == "build" and "release" in " ".join(changed)):
                changed.append(
                    "other options" if key == "argv_sha256" else f"{word} {known[key]} \N{RIGHTWARDS ARROW} {value}"
                )
            known[key] = value
        if changed:
            letter = chr(ord("a") + len(found)) if len(found) < 26 else str(len(found) + 1)
            found.append({"at": row["started_at"], "what": ", ".join(changed), "letter": letter})
    return found


def head(past: Past) -> Block:
    """The top of the page."""
    runs = past.runs
    last = runs.to_dict("records")[-1]
    bad = int((~runs["ok"]).sum())
    tiles: list[Row] = []
    for name in ("decode_tps", "ttft_ms", "prefill_tps", "total_ms"):
        if last[f"{name}_median"] == last[f"{name}_median"] and len(tiles) < 3:
            title, unit, _ = METRICS[name]
            tiles.append(
                {"label": f"{title.removesuffix(' of a request')}, last run", "value": number(last[f"{name}_median"]),
                 "unit": unit, "detail": f"{number(last[f'{name}_low'])} to {number(last[f'{name}_high'])}",
                 "change": None}
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
        sentences=stories.history(runs, past.target, past.marks),
        tiles=tiles,
        since="",
    )


def trends(past: Past) -> Block:
    """The medians of every workload that was measured more than once, over time, with what was changed."""
    parts = []
    several = [number_ for number_, count in past.runs["series"].value_counts().items() if count > 1]
    for place in sorted(int(str(one)) for one in several)[:SERIES_DRAWN]:
        rows = past.runs[past.runs["series"] == place]
        shown = [name for name in PANELS if rows[f"{name}_median"].notna().sum() > 1]
        shown = [name for name in shown if name != "total_ms" or len(shown) == 1]
        if not shown:
            continue
        with drawing(WIDE_IN, 0.7 + 1.75 * len(shown)) as figure:
            grid = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
            for axes, name in zip(grid, shown, strict=True):
                _trend(axes, rows, name)
                _marks(axes, past, rows, named=axes is grid[0])
            one = rows.to_dict("records")[-1]
            first, last = rows[f"{shown[0]}_median"].dropna().iloc[[0, -1]]
            parts.append(
                block(
                    figure, f"trend-{place}",
                    alt=f"{PANELS[shown[0]][0]}: from {number(first)} to {number(last)} over {len(rows)} runs.",
                    caption=f"{one['workload']}, {one['load']}, {one['model']}: medians with their intervals at "
                    "95 % of confidence. Hollow: a run that is not ok. Dashed: something was changed, see its letter.",
                ).html
            )  # fmt: skip
    left_out = len(several) - SERIES_DRAWN
    more = (
        note(f"{left_out} more workloads were measured more than once; the table has them.").html
        if left_out > 0
        else ""
    )
    return Block("".join(parts) + more) if parts else note("No workload was measured more than once.")


def _trend(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    title, colour = PANELS[name]
    times, median = rows["started_at"], rows[f"{name}_median"]
    axes.vlines(times, rows[f"{name}_low"], rows[f"{name}_high"], color=colour, alpha=0.45, linewidth=3)
    axes.plot(times, median, "-", color=colour)
    for ok, face in ((True, colour), (False, "none")):
        these = rows["ok"] == ok
        axes.plot(times[these], median[these], "o", color=colour, markersize=4.5, markerfacecolor=face)
    axes.set_title(title)
    axes.set_ylim(0, float(rows[f"{name}_high"].max()) * 1.15)
    every: Callable[..., Locator] = AutoDateLocator  # these have no types
    written: Callable[..., Formatter] = ConciseDateFormatter
    locator = every(maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(written(locator))
    axes.margins(x=0.03)


def _marks(axes: Axes, past: Past, rows: pd.DataFrame, *, named: bool) -> None:
    first, last = rows["started_at"].min(), rows["started_at"].max()
    for mark in past.marks:
        if first < mark["at"] <= last:
            axes.axvline(mark["at"], color=PURPLE, linewidth=1, linestyle="--")
            if named:
                axes.annotate(
                    mark["letter"], (mark["at"], 1), xycoords=("data", "axes fraction"), xytext=(0, 2), ha="center",
                    textcoords="offset points", color=PURPLE, fontsize=9, fontweight="bold",
                )  # fmt: skip


def changes(past: Past) -> Block:
    """What was changed between runs, oldest first."""
    if not past.marks:
        return note(stories.unchanged(past.runs))
    columns = [
        Column("", numeric=False),
        Column("First run with it", "UTC", numeric=False),
        Column("Changed", numeric=False),
    ]
    return table(columns, [[mark["letter"], minute(mark["at"]), mark["what"]] for mark in past.marks])


def listed(past: Past, limit: int) -> Block:
    """The last runs, newest first."""
    drivers = past.runs["driver"].notna().any()
    measures = ("output_tps", "ttft_ms", "itl_ms", "decode_tps", "prefill_tps")
    columns = [
        Column("Run", "UTC", numeric=False), Column("Workload", numeric=False), Column("Load", numeric=False),
        Column("Model", numeric=False), Column("Build", numeric=False),
        *([Column("Driver", numeric=False)] if drivers else []),
        Column("Output", "tokens/s"), Column("TTFT", "ms"), Column("ITL", "ms"), Column("Decode", "tokens/s"),
        Column("Prefill", "tokens/s"),
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
                *(number(row[name] if name in row else row[f"{name}_median"]) for name in measures),
            ]
        )  # fmt: skip
    left_out = len(past.runs) - len(rows)
    caption = "Medians, and the best throughput. Red: a run that is not ok."
    return table(columns, rows, caption + (f" {left_out} older runs are not listed." if left_out else ""))


def _text(value: object, unknown: str = MISSING) -> str:
    return unknown if value is None or value != value else str(value)


def footer(past: Past) -> Block:
    """Where the numbers come from."""
    return fill("blocks/history_footer.html", count=len(past.runs), target=past.target)
