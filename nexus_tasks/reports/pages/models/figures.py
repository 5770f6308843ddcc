"""Figure of a page that shows models side by side.

figures.dots(compared)
"""

from __future__ import annotations

from nexus_tasks.core.text import number
from nexus_tasks.reports import frames
from nexus_tasks.reports.drawing import BLUE, WIDE_IN, axis_title, block, drawing, name_lines
from nexus_tasks.reports.markup import Block
from nexus_tasks.reports.pages.compare.sides import Compared, model_names
from nexus_tasks.stats.metrics import DECODE, PREFILL, TTFT
from nexus_tasks.views import runs


def dots(compared: Compared) -> Block:
    """The main medians of each model as marks with their confidence intervals, beneath one another."""
    shown = [metric for metric in (DECODE, TTFT, PREFILL)
             if any(metric.key in runs.metrics(record) for record in compared.records)]  # fmt: skip
    if not shown:
        return Block("")
    names = model_names(compared.records)
    with drawing(WIDE_IN, 0.9 + 0.34 * len(names)) as figure:
        grid = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, metric in zip(grid, shown, strict=True):
            most = 0.0
            for row, record in enumerate(compared.records):
                stats = runs.metrics(record).get(metric.key)
                if stats:
                    low, high = frames.likely(stats)
                    axes.plot([low, high], [row, row], "-", color=BLUE, linewidth=3, alpha=0.45)
                    axes.plot(stats.median, row, "o", color=BLUE, markersize=6)
                    axes.annotate(number(stats.median), (stats.median, row), xytext=(0, 6), ha="center",
                                  textcoords="offset points", fontsize=8.5)  # fmt: skip
                    most = max(most, high)
            axes.set_xlim(0, most * 1.15)
            axes.set_title(axis_title(metric).replace(" of a request", ""))
            axes.grid(False, axis="y")
        grid[0].set_yticks(range(len(names)), [name_lines(name) for name in names])
        grid[0].set_ylim(len(names) - 0.5, -0.7)
        speeds_ = [f"{name} {number(runs.figure(runs.metrics(one).get(shown[0].key)))}"
                   for name, one in zip(names, compared.records, strict=True)]  # fmt: skip
        return block(
            figure, "dots", alt=f"{shown[0].title}: {', '.join(speeds_)} {shown[0].unit}.",
            caption="Medians with their 95 % confidence intervals (with few requests: their range).",
        )  # fmt: skip
