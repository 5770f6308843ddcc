"""Figures of a comparison's page: the changes with their confidence intervals, and all requests of each side.

figures.effects(compared)
figures.curves(compared)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from nexus_tasks.comparison.verdicts import BETTER, CANT_TELL, SAME, WORSE
from nexus_tasks.core.text import number, percent
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import frames
from nexus_tasks.reports.drawing import (
    BAD,
    GREEN,
    INK,
    ORANGE,
    SERIES,
    WIDE_IN,
    axis_title,
    block,
    drawing,
    legend_above,
)
from nexus_tasks.reports.frames import Floats
from nexus_tasks.reports.markup import Block
from nexus_tasks.reports.pages.compare.sides import Compared, letter, side_names
from nexus_tasks.reports.requests import counted_rows
from nexus_tasks.stats.metrics import ITL, TOTAL, TTFT, Metric
from nexus_tasks.views import runs

MARKS = {BETTER: ("^", GREEN, True), WORSE: ("v", BAD, True), SAME: ("o", INK, True), CANT_TELL: ("D", ORANGE, False)}
CURVES = (TTFT, ITL, TOTAL)
CURVES_DRAWN = 2
QUANTILES = np.linspace(0, 1, 201)


def effects(compared: Compared) -> Block:
    """The change of each quantity with its confidence interval, around the equivalence margin."""
    plots = []
    for place, one in enumerate(compared.comparisons, start=1):
        findings = [finding for finding in getattr(one, "findings", []) if finding.change is not None]
        if not findings:
            continue
        several = len({finding.level for finding in findings}) > 1
        with drawing(WIDE_IN, 0.8 + 0.28 * len(findings)) as figure:
            axes = figure.subplots()
            for row, finding in enumerate(findings):
                marker, colour, filled = MARKS[finding.verdict]
                margin = finding.margin_percent
                axes.barh(row, 2 * margin, left=-margin, height=0.8, color=INK, alpha=0.12, linewidth=0)
                if finding.low is not None and finding.high is not None:
                    axes.plot([finding.low, finding.high], [row, row], "-", color=colour, linewidth=2.2)
                axes.plot(finding.change, row, marker, color=colour, markersize=7, markeredgecolor=colour,
                          markerfacecolor=colour if filled else "none")  # fmt: skip
                axes.annotate(finding.verdict, (1, row), xycoords=("axes fraction", "data"), xytext=(6, 0), va="center",
                              textcoords="offset points", color=colour, fontsize=8.5)  # fmt: skip
            axes.axvline(0, color=INK, linewidth=0.8)
            names = [finding.label.rpartition(",")[0] or finding.label for finding in findings]
            axes.set_yticks(
                range(len(findings)),
                [f"{name}, {each.level}" if several else name for name, each in zip(names, findings, strict=True)],
            )
            axes.set_ylim(len(findings) - 0.5, -0.5)
            ends = [
                abs(end) for each in findings for end in (each.low, each.high, each.margin_percent) if end is not None
            ]
            extremes = max(abs(one.change or 0.0) for one in findings), max(one.margin_percent for one in findings)
            reach = min(
                max(ends) * 1.1, max(1.5 * extremes[0], 2.5 * extremes[1])
            )  # one wide interval must not hide the others
            axes.set_xlim(-reach, reach)
            axes.grid(False, axis="y")
            axes.set_xlabel(f"change from A to {letter(place)}, % (of shares: percentage points)")
            changes = ", ".join(f"{name} {percent(each.change)}" for name, each in zip(names, findings, strict=True))
            plots.append(
                block(
                    figure, f"effects-{place}", alt=f"Changes from A to {letter(place)}: {changes}.",
                    caption="Lines are 95 % confidence intervals of all changes together, grey is the margin; a "
                    "line may leave the frame. More is better for rates, less for times.",
                ).html
            )  # fmt: skip
    return Block("".join(plots))


def curves(compared: Compared) -> Block:
    """Cumulative distributions: which share of the requests, and of the gaps between tokens, took at most how long."""
    shown = [metric for metric in CURVES if len(_points(compared.sides[0], metric))][:CURVES_DRAWN]
    if not shown:
        return Block("")
    names = side_names(compared)
    with drawing(WIDE_IN, 2.8 + 0.2 * len(names)) as figure:
        grid = figure.subplots(1, len(shown), squeeze=False)[0]
        for axes, metric in zip(grid, shown, strict=True):
            drawn = []
            for place, side in enumerate(compared.sides):
                points = _points(side, metric)
                if len(points):
                    colour = SERIES[place % len(SERIES)]
                    style = ("-", "--", ":", "-.")[place % 4]
                    axes.plot(np.quantile(points, QUANTILES), QUANTILES * 100, style, color=colour, label=names[place])
                    drawn.append(points)
            _curve_axes(axes, axis_title(metric), drawn)
        legend_above(figure, grid[0])
        grid[0].set_ylabel("% took at most this long")
        taken = {names[place]: _points(side, shown[0]) for place, side in enumerate(compared.sides)}
        medians = [f"{name} {number(float(np.median(some)), 'ms')}" for name, some in taken.items() if len(some)]
        several = any(len(runs.stages(record)) > 1 for record in compared.records)
        return block(
            figure,
            "curves",
            alt=f"Medians: {shown[0].title.lower()} {', '.join(medians)}.",
            caption="A curve further to the left is faster; one that leans has a wider spread."
            + (" All levels of load together." if several else ""),
        )


def _curve_axes(axes: Axes, title: str, drawn: Sequence[Floats]) -> None:
    low = min(float(np.quantile(points, 0.005)) for points in drawn)
    high = max(float(np.quantile(points, 0.995)) for points in drawn)
    pad = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    axes.set_xlim(max(0.0, low - pad), high + pad)
    axes.set_ylim(0, 100)
    axes.set_title(title)


def _points(side: Sequence[BenchmarkRecord], metric: Metric) -> Floats:
    if metric is ITL:
        return np.concatenate([frames.inter_token_ms(record) for record in side])
    values = [getattr(row, metric.key) for record in side for row in counted_rows(record)]
    return np.array([value for value in values if value is not None], dtype=np.float64)
