"""Figure of how values are distributed: points where there are few, else a histogram with its percentiles.

distribution("ttft", "Time to first token", "ms", values, [("median", 12.4, ORANGE), ("SLO", 50.0, BAD)])
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from nexus_tasks.core.text import SPACE, number, whole
from nexus_tasks.reports.drawing import BLUE, HALF_IN, ORANGE, block, drawing
from nexus_tasks.reports.frames import Floats
from nexus_tasks.reports.markup import Block, note

LABEL_ROOM = 0.7  # of a half-wide axis: a label that begins further right would leave it
LOG_SPREAD = 8.0  # a linear axis whose longest value is this many medians hides the rest
PLAIN_BELOW = 1e5  # of an axis with larger numbers matplotlib takes out a power of ten
FEW = 20  # points: fewer are drawn themselves

Mark = tuple[str, float, str]
"""A line across a distribution: label, value and colour."""


def distribution(
    name: str, title: str, unit: str, values: Floats, marks: Sequence[Mark], *, most: str = "slowest"
) -> Block:
    """Points in the order they came where there are fewer than FEW, else a histogram with the marks.

    Args:
        name: begins the ids within the figure.
        title: of what the values are, which have this unit.
        most: the word for the largest values.
    """
    if not len(values):
        return note(f"{title}: nothing was measured.", "bad")
    few = len(values) < FEW
    with drawing(HALF_IN, 2.9) as figure:
        axes = figure.subplots()
        _points(axes, values) if few else _histogram(axes, values)
        axes.set_title(f"{title}, {unit}")
        figures = whole if unit == "tokens" else number
        _mark(axes, [(f"{label} {figures(value)}", value, colour) for label, value, colour in marks])
        low, high = figures(values.min()), figures(values.max(), unit)
        spread = high if values.min() == values.max() else f"{low} to {high}"
        middle = next((f", median {figures(value, unit)}" for label, value, _ in marks if label == "median"), "")
        outliers = "" if few else f" Ticks along the foot are the {most} 1{SPACE}%."
        return block(
            figure,
            name,
            alt=f"{title} of {len(values)} points: {spread}{middle}.",
            caption=f"n = {len(values):,}, {spread}.{outliers}",
            width="half",
        )


def _points(axes: Axes, values: Floats) -> None:
    axes.plot(values, np.arange(1, len(values) + 1), "o", color=BLUE, markersize=6)
    axes.set_ylim(len(values) + 0.6, 0.1)
    axes.set_yticks(range(1, len(values) + 1))
    axes.set_ylabel("request, in order")
    low, high = float(values.min()), float(values.max())
    # Three points within one percent must not look far apart: the axis spans 10 % at least.
    pad = max((high - low) * 0.15, (low + high) / 2 * 0.05)
    axes.set_xlim(max(0.0, low - pad), high + pad)


def _histogram(axes: Axes, values: Floats) -> None:
    """Bars of counts; a logarithmic axis where the longest value would flatten the rest."""
    middle, low, high = float(np.median(values)), float(values.min()), float(values.max())
    bars = int(np.clip(3 * np.sqrt(len(values)), 12, 60))
    if high > LOG_SPREAD * middle > 0:
        # Tokens that came in one event are 0 apart: they go into the first bar.
        low = max(low, middle / 20)
        bins = np.geomspace(low, high * 1.001, bars)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        bins = _bins(low, high, bars, counts=bool((values == np.round(values)).all()))
        if high >= PLAIN_BELOW:
            axes.xaxis.set_major_formatter("{x:,.6g}")
            axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.hist(np.maximum(values, low), bins=bins.tolist(), color=BLUE, alpha=0.8)
    slow = np.sort(values)[-max(1, len(values) // 100) :]
    axes.plot(slow, np.zeros(len(slow)), "|", color=BLUE, markersize=9, clip_on=False)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_ylabel("count")


def _bins(low: float, high: float, bars: int, *, counts: bool) -> Floats:
    """The edges of the bars of a linear axis; of counts each bar has equally many whole numbers."""
    if low == high:  # a bar that is seen
        half = max(abs(low) / 200, 0.5 if counts else 0.0)
        return np.array([low - half, low + half])
    if counts:
        width = np.ceil((high - low + 1) / bars)
        return np.asarray(np.arange(low - 0.5, high + 0.5 + width, width))
    return np.linspace(low, max(high, low * 1.01, low + 1e-3), bars)


def _mark(axes: Axes, marks: Sequence[tuple[str, float, str]]) -> None:
    """Vertical lines, each labelled on a height of its own above the data, so that near ones stay legible."""
    bottom, top = axes.get_ylim()
    room = (top - bottom) * 0.1
    axes.set_ylim(bottom, top + room * (len(marks) + 0.3))
    edge = axes.transData.inverted().transform(axes.transAxes.transform((LABEL_ROOM, 0)))[0]
    # Labels stand to the right of their line where there is room. The outermost are highest and cross no line.
    outwards = sorted(marks, key=lambda mark: (mark[1] <= edge, -mark[1] if mark[1] <= edge else mark[1]))
    for step, (label, value, colour) in enumerate(outwards):
        height = top + room * (step + 0.9)
        axes.vlines(value, bottom, height, color=colour, linewidth=1, linestyles="-" if colour == ORANGE else "--")
        left = value <= edge
        axes.annotate(
            label,
            (value, height),
            xytext=(4 if left else -4, 0),
            textcoords="offset points",
            ha="left" if left else "right",
            va="top",
            color=colour,
            fontsize=8.5,
        )
