"""Figures of levels of load: throughput and latency against users at a time, requests per second, or prompt lengths.

level_figures.by_level(record)
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from nexus_tasks.core.text import number, span
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import frames, levels
from nexus_tasks.reports.drawing import (
    BAD,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    WIDE_IN,
    axis_title,
    block,
    drawing,
    end_labels,
    log_ticks,
)
from nexus_tasks.reports.markup import Block
from nexus_tasks.stats.metrics import DECODE, ITL, PREFILL, TOTAL, TTFT, Metric, parse
from nexus_tasks.views import runs

LOG_RANGE = 16  # levels that span more than this stand on a logarithmic axis
AXES = {
    "concurrency": "requests at a time",
    "rate_per_s": "requests per second, sent",
    "prompt_tokens": "prompt tokens",
}


def by_level(record: BenchmarkRecord) -> Block:
    """Throughput and latency against the level of load, with the slots of the server and the SLOs."""
    stages = frames.stages(record)
    rate = levels.throughput(stages)
    if len(stages) < 2 or not (stages[rate.key] > 0).any():
        return Block("")
    if runs.axis(record) == "prompt_tokens":
        return _by_length(record, stages)
    first = TTFT if stages[f"{TTFT.key}_median"].notna().any() else TOTAL
    second = ITL if stages[f"{ITL.key}_median"].notna().any() else None
    with drawing(WIDE_IN, 2.5 + (5.0 if second else 2.3)) as figure:
        grid: list[Axes] = list(figure.subplots(3 if second else 2, 1, sharex=True))
        top = grid[0]
        top.plot(stages["level"], stages[rate.key], "-o", color=ORANGE, markersize=5)
        top.set_ylim(0, float(stages[rate.key].max()) * 1.2)
        top.set_title(f"Throughput, {rate.unit}")
        knee = levels.knee_of(record, stages) if runs.swept(record) else None
        if knee is not None:
            _ring(
                top, float(knee["level"]), float(knee[rate.key]), f"knee: {number(knee[rate.key])} at {knee['level']:g}"
            )
        for axes, metric in zip(grid[1:], filter(None, [first, second]), strict=False):
            _latency(axes, record, stages, metric)
        for place, axes in enumerate(grid):
            _level_axis(axes, record, stages)
            _slots(axes, record, stages, named=place == 0)
        grid[-1].set_xlabel(AXES[runs.axis(record)])
        best = stages[rate.key].max()
        return block(
            figure,
            "by-level",
            alt=f"Throughput at {len(stages)} levels, at most {number(best, rate.unit)}; median "
            f"{first.title.lower()} from {span(stages[f'{first.key}_median'].min())} to "
            f"{span(stages[f'{first.key}_median'].max())}.",
            caption="The band around a median is its 95 % confidence interval. A hollow mark: a level that is "
            "not valid.",
        )


def _by_length(record: BenchmarkRecord, stages: pd.DataFrame) -> Block:
    panels = [
        (metric, colour)
        for metric, colour in ((TTFT, BLUE), (PREFILL, GREEN), (DECODE, ORANGE))
        if stages[f"{metric.key}_median"].notna().any()
    ]
    if not panels:
        return Block("")
    with drawing(WIDE_IN, 3.0) as figure:
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (metric, colour) in zip(grid, panels, strict=True):
            _line(axes, stages, metric, colour)
            axes.set_title(axis_title(metric))
            values = stages[f"{metric.key}_median"]
            _level_axis(axes, record, stages)
            if metric is TTFT and values.max() > 8 * values.min() > 0:
                axes.set_yscale("log")
                log_ticks(axes.yaxis, float(values.min()), float(values.max()))
            else:
                axes.set_ylim(0, float(values.max()) * 1.2)
            for name, limit in record.header.load.slo.items():
                if parse(name)[0].key == metric.key:
                    slo_line(axes, float(limit))
            axes.set_xlabel(AXES["prompt_tokens"])
        first, *_, last = levels.rows(stages)
        return block(
            figure,
            "by-level",
            alt=f"Median time to first token from {span(first['ttft_ms_median'])} at {first['name']} to "
            f"{span(last['ttft_ms_median'])} at {last['name']}.",
            caption="Medians, with their 95 % confidence intervals where there are enough requests.",
        )


def _latency(axes: Axes, record: BenchmarkRecord, stages: pd.DataFrame, metric: Metric) -> None:
    _line(axes, stages, metric, BLUE)
    labels = [(float(stages[f"{metric.key}_median"].iloc[-1]), "median", BLUE)]
    tail = stages[f"{metric.key}_p95"]
    if tail.notna().any():
        axes.plot(stages["level"], tail, "--", color=PURPLE)
        labels.append((float(tail.dropna().iloc[-1]), "p95", PURPLE))
    values = pd.concat([stages[f"{metric.key}_median"], tail]).dropna()
    limits = [float(v) for name, v in record.header.load.slo.items() if parse(name)[0].key == metric.key]
    if values.max() > 8 * values.min() > 0:
        axes.set_yscale("log")
        log_ticks(axes.yaxis, min([float(values.min()), *limits]), max([float(values.max()), *limits]))
    else:
        axes.set_ylim(0, max([float(values.max()), *limits]) * 1.25)
    for limit in limits:
        slo_line(axes, limit)
    end_labels(axes, labels)
    axes.set_title(axis_title(metric))


def _line(axes: Axes, stages: pd.DataFrame, metric: Metric, colour: str) -> None:
    """Medians with their confidence intervals; levels that are not valid are hollow."""
    level, median = stages["level"], stages[f"{metric.key}_median"]
    axes.plot(level, median, "-", color=colour)
    for valid, face in ((True, colour), (False, "none")):
        rows = stages["valid"] == valid
        axes.plot(level[rows], median[rows], "o", color=colour, markerfacecolor=face, markersize=4.5)
    sure = stages[f"{metric.key}_low"].notna()
    axes.fill_between(level[sure], stages[f"{metric.key}_low"][sure], stages[f"{metric.key}_high"][sure], color=colour,
                      alpha=0.2, linewidth=0)  # fmt: skip


def _level_axis(axes: Axes, record: BenchmarkRecord, stages: pd.DataFrame) -> None:
    """The levels themselves as ticks, as far as they have room."""
    values = np.unique(stages["level"].dropna().to_numpy())
    if len(values) and values[-1] > LOG_RANGE * values[0] > 0:
        axes.set_xscale("log")
        axes.set_xlim(values[0] / 1.15, values[-1] * 1.15)
    else:
        axes.set_xlim(0, values[-1] * 1.05)
    log = axes.get_xscale() == "log"
    places = np.log(values) if log else values
    reach, kept = (places[-1] - places[0]) or 1.0, [0]
    for place in range(1, len(values)):
        if places[place] - places[kept[-1]] >= reach * 0.055:
            kept.append(place)
    shown = values[kept]
    axes.set_xticks(shown, [f"{level / 1000:.3g}k" if level >= 10_000 else f"{level:,g}" for level in shown])
    axes.xaxis.set_minor_locator(NullLocator())


def _slots(axes: Axes, record: BenchmarkRecord, stages: pd.DataFrame, *, named: bool) -> None:
    """The band beyond the server's slots, in which requests wait."""
    slots = runs.slots(record)
    if not slots or runs.axis(record) != "concurrency" or stages["level"].max() < slots:
        return
    right = axes.get_xlim()[1]
    axes.axvspan(slots, right, color=PURPLE, alpha=0.08, linewidth=0)
    axes.axvline(slots, color=PURPLE, linewidth=1)
    if named:
        axes.annotate(f"{slots} slots; beyond, requests wait", (slots, 0.04), xycoords=("data", "axes fraction"),
                      xytext=(4, 0), textcoords="offset points", color=PURPLE, fontsize=8.5)  # fmt: skip


def slo_line(axes: Axes, limit: float) -> None:
    """A named line at an SLO, within the axis."""
    low, high = axes.get_ylim()
    if axes.get_yscale() == "log":
        axes.set_ylim(min(low, limit / 1.3), max(high, limit * 1.3))
    else:
        axes.set_ylim(low, max(high, limit * 1.15))
    axes.axhline(limit, color=BAD, linewidth=1, linestyle="--")
    axes.annotate(f"SLO {limit:,g} ms", (0, limit), xycoords=("axes fraction", "data"), xytext=(3, 3),
                  textcoords="offset points", color=BAD, fontsize=8.5)  # fmt: skip


def _ring(axes: Axes, x: float, y: float, text: str) -> None:
    axes.plot(x, y, "o", markersize=13, markerfacecolor="none", markeredgecolor=BLUE, markeredgewidth=1.5)
    axes.annotate(text, (x, y), xytext=(-9, 7), textcoords="offset points", ha="right", color=BLUE, fontsize=8.5)
