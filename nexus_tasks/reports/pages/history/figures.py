"""Figures of a target's history: the medians of each workload over time, with what was changed.

figures.trends(past)
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.ticker import Formatter, Locator

from nexus_tasks.core.text import number
from nexus_tasks.reports.drawing import BLUE, GREEN, ORANGE, PURPLE, WIDE_IN, axis_title, block, drawing
from nexus_tasks.reports.markup import Block, note
from nexus_tasks.reports.pages.history.past import Past
from nexus_tasks.stats.metrics import DECODE, PREFILL, TOTAL, TTFT, Metric

COLOURS = {DECODE: ORANGE, TTFT: BLUE, PREFILL: GREEN, TOTAL: BLUE}  # a panel each, in this order
SERIES_DRAWN = 4  # workloads; more, and the page has no end


def trends(past: Past) -> Block:
    """The medians of every workload that was measured more than once, over time, with what was changed."""
    parts = []
    several = [number_ for number_, count in past.runs["series"].value_counts().items() if count > 1]
    for place in sorted(int(str(one)) for one in several)[:SERIES_DRAWN]:
        rows = past.runs[past.runs["series"] == place]
        shown = [metric for metric in COLOURS if rows[f"{metric.key}_median"].notna().sum() > 1]
        shown = [metric for metric in shown if metric is not TOTAL or len(shown) == 1]
        if not shown:
            continue
        with drawing(WIDE_IN, 0.7 + 1.75 * len(shown)) as figure:
            grid = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
            for axes, metric in zip(grid, shown, strict=True):
                _trend(axes, rows, metric)
                _marks(axes, past, rows, named=axes is grid[0])
            one = rows.to_dict("records")[-1]
            first, last = rows[f"{shown[0].key}_median"].dropna().iloc[[0, -1]]
            parts.append(
                block(
                    figure, f"trend-{place}",
                    alt=f"{axis_title(shown[0])}: from {number(first)} to {number(last)} over {len(rows)} runs.",
                    caption=f"{one['workload']}, {one['load']}, {one['model']}: medians with their 95 % "
                    "confidence intervals. Hollow: a run that is not ok. Dashed: something was changed, see its "
                    "letter.",
                ).html
            )  # fmt: skip
    left_out = len(several) - SERIES_DRAWN
    more = (
        note(f"{left_out} more workloads were measured more than once; the table has them.").html
        if left_out > 0
        else ""
    )
    return Block("".join(parts) + more) if parts else note("No workload was measured more than once.")


def _trend(axes: Axes, rows: pd.DataFrame, metric: Metric) -> None:
    name, colour = metric.key, COLOURS[metric]
    times, median = rows["started_at"], rows[f"{name}_median"]
    axes.vlines(times, rows[f"{name}_low"], rows[f"{name}_high"], color=colour, alpha=0.45, linewidth=3)
    axes.plot(times, median, "-", color=colour)
    for ok, face in ((True, colour), (False, "none")):
        these = rows["ok"] == ok
        axes.plot(times[these], median[these], "o", color=colour, markersize=4.5, markerfacecolor=face)
    axes.set_title(axis_title(metric))
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
