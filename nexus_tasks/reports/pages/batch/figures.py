"""Figures of a batch's page: its work over time, and how long requests and answers are.

figures.over_time(record)
figures.distributions(record)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nexus_tasks.core.text import duration, number, plural
from nexus_tasks.records.store import BatchRecord
from nexus_tasks.reports.distributions import FEW, Mark, distribution
from nexus_tasks.reports.drawing import (
    BAD,
    BLUE,
    INK,
    ORANGE,
    SERIES,
    WIDE_IN,
    block,
    drawing,
    legend_above,
    side_by_side,
)
from nexus_tasks.reports.frames import Floats
from nexus_tasks.reports.markup import Block, note
from nexus_tasks.reports.pages.batch.answers import values
from nexus_tasks.stats.metrics import TOTAL, TTFT
from nexus_tasks.views import batch_runs

STEPS = 150  # more intervals than this, and a line is a blur
ENDS_A_STEP = 4  # of requests: fewer, and it jumps
LONG_MS = 10_000.0  # a median that is longer is told in seconds
LEGEND_LETTERS = 50  # of all names: more, and they stand above the figure
NAMED = len(SERIES)  # endpoints with a colour of their own
OTHERS = "other endpoints"
UNITS = ((7200.0, 3600.0, "hours"), (300.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
"""Up to which length of the work in seconds a unit of time is too large, its length, and its name."""


def over_time(record: BatchRecord) -> Block:
    """Tokens per second by endpoint over the work, with the answers and the failed attempts of the same intervals."""
    series, rows = _Series(record), f"{batch_runs.noun(record)}s"
    if not series.names:
        return note("No request was sent, so there is nothing to draw over time.")
    rates = {"output_tokens": "Output tokens per second", "answered": f"{rows.capitalize()} answered per second"}
    shown, failed = [key for key in rates if series.sum(key).any()], series.sum("failed")
    heights = [1.7, 1.0][: len(shown)] + [0.7] * bool(failed.any())
    if not heights:
        return note("No request came to its end, so there is nothing to draw over time.")
    resumed = [row.t_s / series.unit_s for row in record.sessions[1:]]
    with drawing(WIDE_IN, 0.7 + 1.2 * sum(heights)) as figure:
        grid = figure.subplots(
            len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]  # fmt: skip
        for axes, key in zip(grid, shown, strict=False):
            _stacked(axes, series, key, rates[key])
        if shown and len(series.names) > 1:
            _legend(figure, grid[0], series.names)
        if failed.any():
            _failed(grid[-1], series)
        for axes in grid:
            axes.set_ylim(bottom=0)
            for at in resumed:
                axes.axvline(at, color=INK, linewidth=0.9, linestyle="--")
        grid[-1].set_xlim(0, series.edges[-1])
        grid[-1].set_xlabel(f"{series.unit} of work")
        best = [f"at most {number(float(series.rate(key).max()))} {rates[key].lower()}" for key in shown[:1]]
        caption = [f"Steps of {duration(series.width_s)}; the tokens of an answer are spread over the time it took."]
        if resumed:
            caption.append("Dashed: the job was resumed; the pause before is left out.")
        return block(
            figure,
            "over-time",
            alt=f"The work of {duration(series.seconds)} on {plural(len(record.endpoints), 'endpoint')}: "
            + ", ".join([*best, f"{int(failed.sum()):,} attempts failed."]),
            caption=" ".join(caption),
        )


def distributions(record: BatchRecord) -> Block:
    """Durations of requests, and lengths of prompts and answers, of the sampled requests."""
    wanted = (
        ("latency_ms", TOTAL.title, "ms", "slowest"),
        ("ttft_ms", TTFT.title, "ms", "slowest"),
        ("prompt_tokens", "Prompt", "tokens", "longest"),
        ("output_tokens", "Answer", "tokens", "longest"),
    )
    drawn = []
    for key, title, unit, most in wanted:
        points = values(record, key)
        if len(points):
            if unit == "ms" and np.median(points) >= LONG_MS:
                points, unit = points / 1000, "s"
            drawn.append(distribution(key.replace("_", "-"), title, unit, points, _marks(points), most=most))
    return side_by_side(*drawn) if drawn else note("No request was answered.")


def _marks(points: Floats) -> list[Mark]:
    known = [("median", 50)] if len(points) < FEW else [("median", 50), ("p95", 95), ("p99", 99)]
    return [(label, float(np.percentile(points, rank)), ORANGE) for label, rank in known]


class _Series:
    """Counts of the intervals by endpoint, at most STEPS of them; ``edges`` are in ``unit``, a unit of time.

    Endpoints beyond those with most tokens are taken together.
    """

    def __init__(self, record: BatchRecord) -> None:
        ends = [row.t_s + row.width_s for row in record.intervals]
        self.seconds = max([record.summary.seconds if record.summary else 0.0, *(row.t_s for row in record.intervals)])
        _, self.unit_s, self.unit = next(unit for unit in UNITS if self.seconds >= unit[0])
        interval_s = next((row.width_s for row in record.intervals), 1.0)
        steps = round(max(ends, default=1.0) / interval_s)
        ends_ = sum(row.answered + row.failed for row in record.intervals)
        each = max(1, -(-steps // max(1, min(STEPS, ends_ // ENDS_A_STEP))))
        self.width_s = interval_s * each
        count = -(-steps // each)
        edges = np.arange(count + 1) * self.width_s
        if count > 1 and self.seconds - edges[-2] < self.width_s / 2:  # too short for a rate
            edges, count = edges[:-1], count - 1
        edges[-1] = max(self.seconds, edges[-2] + self.width_s / 2)
        self._widths_s = np.diff(edges)
        self.edges = edges / self.unit_s
        self.names = _ranked(record)
        self._counts: dict[str, dict[str, Floats]] = {
            name: {key: np.zeros(count) for key in ("output_tokens", "answered", "failed")} for name in self.names
        }
        for row in record.intervals:
            counts = self._counts[row.endpoint if row.endpoint in self._counts else OTHERS]
            for key, sums in counts.items():
                sums[min(round(row.t_s / interval_s) // each, count - 1)] += getattr(row, key)

    def rate(self, key: str, name: str | None = None) -> Floats:
        """Counts per second, of one endpoint or of all."""
        return np.asarray((self.sum(key) if name is None else self._counts[name][key]) / self._widths_s)

    def sum(self, key: str) -> Floats:
        """Counts of all endpoints."""
        return np.asarray(sum(counts[key] for counts in self._counts.values()))


def _ranked(record: BatchRecord) -> list[str]:
    """The endpoints that worked, those with most answers first; beyond the colours that there are, one for the rest."""
    names = [row.endpoint for row in sorted(record.endpoints, key=lambda row: -row.answered) if row.requests]
    seen = {row.endpoint for row in record.intervals}
    names = [name for name in names if name in seen]
    return names if len(names) <= NAMED else [*names[: NAMED - 1], OTHERS]


def _stacked(axes: Axes, series: _Series, key: str, title: str) -> None:
    """The rates of the endpoints on top of one another."""
    below = np.zeros(len(series.edges) - 1)
    several = len(series.names) > 1
    for name, colour in zip(series.names, SERIES, strict=False):
        rate = series.rate(key, name)
        axes.stairs(
            below + rate, series.edges, baseline=below, color=colour, fill=True, alpha=0.55, linewidth=0, label=name
        )
        below = below + rate
    axes.stairs(below, series.edges, color=INK if several else BLUE, linewidth=0.9)
    axes.set_title(title)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter("{x:,.6g}")


def _legend(figure: Figure, axes: Axes, names: Sequence[str]) -> None:
    """The names of the endpoints: at the title's side, or where they are long above all panels."""
    if sum(map(len, names)) > LEGEND_LETTERS:
        legend_above(figure, axes)
    else:
        axes.legend(loc="lower right", ncols=len(names), bbox_to_anchor=(1, 1), borderaxespad=0, handlelength=1)


def _failed(axes: Axes, series: _Series) -> None:
    axes.stairs(series.sum("failed"), series.edges, color=BAD, fill=True, alpha=0.75, linewidth=0)
    axes.set_title("Failed attempts")
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
