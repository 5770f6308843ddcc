"""The table and the figures of a run with several levels of load, and the top of a sweep's page.

    stage_blocks.by_level(record)
    stage_blocks.against_latency(record)

Levels are users at a time, requests per second, or the length of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, NullLocator

from nexus_tasks.core.text import number, plural, span
from nexus_tasks.records import runs
from nexus_tasks.records.store import Record
from nexus_tasks.reports import blocks, frames, stories
from nexus_tasks.reports.figures import BAD, BLUE, GREEN, INK, ORANGE, PURPLE, WIDE_IN, block, drawing, end_labels
from nexus_tasks.reports.frames import Floats, History
from nexus_tasks.reports.markup import Block, Cell, Column, Rows, table

POINT = 100 / 72  # pixels of a figure that is drawn at matplotlib's resolution
LOG_RANGE = 16  # levels that span more than this stand on a logarithmic axis
AXES = {
    "concurrency": "requests at a time",
    "rate_per_s": "requests per second, sent",
    "prompt_tokens": "prompt tokens",
}
LATENCIES = {"ttft_ms": "Time to first token", "itl_ms": "Inter-token latency", "total_ms": "Whole request"}


def head(record: Record, past: History) -> Block:
    """The top of a sweep's page."""
    return blocks.page_head(record, past, stories.sweep(record), "Sweep")


def levels(record: Record) -> Block:
    """Every level in a row: what came out, how long it took, how many met the SLOs, and whether it is valid."""
    stages = frames.stages(record)
    if len(stages) < 2:
        return Block("")
    knee = stories.knee_of(record, stages)["stage"] if runs.swept(record) else None
    shown = {
        "output_tps": Column("Output", "tokens/s"),
        "requests_per_s": Column("Requests", "per s"),
        "ttft_ms": Column("TTFT", "median, ms"),
        "itl_ms": Column("ITL", "median, ms"),
        "total_ms": Column("Request", "median, ms"),
        "decode_tps": Column("Decode", "each, tokens/s"),
        "prefill_tps": Column("Prefill", "tokens/s"),
    }
    columns_of = {name: name if name in stages else f"{name}_median" for name in shown}
    shown = {name: column for name, column in shown.items() if stages[columns_of[name]].max() > 0}
    goals = bool(record.header["load"]["slo"])
    columns = [
        Column("Level", numeric=False),
        Column("Requests", "warm-up too"),
        *shown.values(),
        *([Column("Met SLOs", "%")] if goals else []),
        Column("Told", numeric=False),
    ]
    rows: Rows = []
    for row in stories.levels(stages):
        said = [
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
        rows.append(
            [
                row["name"],
                f"{row['requests']:,}",
                *cells,
                *([Cell(f"{share:.0f}" if share == share else "", "good" if share >= 95 else "bad")] if goals else []),
                Cell(", ".join(filter(None, said)), "bad" if amiss else ""),
            ]
        )
    return table(columns, rows)


def by_level(record: Record) -> Block:
    """Throughput and latency against the level of load, with the slots of the server and the SLOs."""
    stages = frames.stages(record)
    if len(stages) < 2:
        return Block("")
    if runs.axis(record) == "prompt_tokens":
        return _by_length(record, stages)
    rate = stories.rate_column(stages)
    first = "ttft_ms" if stages["ttft_ms_median"].notna().any() else "total_ms"
    second = "itl_ms" if stages["itl_ms_median"].notna().any() else None
    with drawing(WIDE_IN, 2.5 + (5.0 if second else 2.3)) as figure:
        grid: list[Axes] = list(figure.subplots(3 if second else 2, 1, sharex=True))
        top = grid[0]
        top.plot(stages["level"], stages[rate], "-o", color=ORANGE, markersize=5)
        top.set_ylim(0, float(stages[rate].max()) * 1.2)
        top.set_title(f"Throughput, {stories.unit_of(rate)}")
        knee = stories.knee_of(record, stages) if runs.swept(record) else None
        if knee is not None:
            _ring(top, float(knee["level"]), float(knee[rate]), f"knee: {number(knee[rate])} at {knee['level']:g}")
        for axes, metric in zip(grid[1:], filter(None, [first, second]), strict=False):
            _latency(axes, record, stages, metric)
        for place, axes in enumerate(grid):
            _level_axis(axes, record, stages)
            _slots(axes, record, stages, named=place == 0)
        grid[-1].set_xlabel(AXES[runs.axis(record)])
        best = stages[rate].max()
        return block(
            figure,
            "by-level",
            alt=f"Throughput at {len(stages)} levels, at most {number(best, stories.unit_of(rate))}; median "
            f"{LATENCIES[first].lower()} from {span(stages[f'{first}_median'].min())} to "
            f"{span(stages[f'{first}_median'].max())}.",
            caption="The band around a median is its interval at 95 % of confidence. A hollow mark: a level that is "
            "not valid.",
        )


def against_latency(record: Record) -> Block:
    """Throughput against latency: each mark a level. Up is slower for the user, right is more for the server."""
    stages = frames.stages(record)
    rate = stories.rate_column(stages)
    metrics = [name for name in ("ttft_ms", "itl_ms", "total_ms") if stages[f"{name}_median"].notna().any()][:2]
    if not metrics or len(stages) < 2:
        return Block("")
    knee = stories.knee_of(record, stages)
    with drawing(WIDE_IN, 3.6) as figure:
        grid = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axes, metric in zip(grid, metrics, strict=True):
            part = "p95" if stages[f"{metric}_p95"].notna().all() else "median"
            latency = stages[f"{metric}_{part}"]
            axes.plot(stages[rate], latency, "-", color=INK, linewidth=0.8)
            for row, value in zip(stories.levels(stages), latency, strict=True):
                queues = _beyond(record, row["level"])
                axes.plot(row[rate], value, "D" if queues else "o", color=PURPLE if queues else BLUE, markersize=6,
                          markerfacecolor=(PURPLE if queues else BLUE) if row["valid"] else "none")  # fmt: skip
            axes.plot(float(knee[rate]), float(knee[f"{metric}_{part}"]), "o", markersize=14, markerfacecolor="none",
                      markeredgecolor=ORANGE, markeredgewidth=1.5)  # fmt: skip
            if latency.max() > 8 * latency.min() > 0:
                axes.set_yscale("log")
                _plain(axes.yaxis, float(latency.min()), float(latency.max()))
            else:
                axes.set_ylim(0, float(latency.max()) * 1.2)
            for name, limit in record.header["load"]["slo"].items():
                if runs.objective(name)[0] == metric:
                    _slo(axes, float(limit))
            axes.set_xlim(0, float(stages[rate].max()) * 1.12)
            names = [f"{level:g}" for level in stages["level"]]
            ringed = [int(stage) == int(knee["stage"]) for stage in stages["stage"]]
            _name(axes, stages[rate].to_numpy(), latency.to_numpy(), names, ringed)
            axes.set_title(f"{LATENCIES[metric]}, {part}, ms")
            axes.set_xlabel(f"throughput, {stories.unit_of(rate)}")
        queueing = any(_beyond(record, value) for value in stages["level"])
        said = " Purple diamonds are levels beyond the server's slots: what is added there waits." if queueing else ""
        return block(
            figure,
            "against-latency",
            alt=f"Throughput against latency at {len(stages)} levels; the knee is at {knee['name']}, with "
            f"{number(knee[rate], stories.unit_of(rate))}.",
            caption=f"Each mark is a level, named by its {AXES[runs.axis(record)]}; the orange ring is the knee.{said}",
        )


def _by_length(record: Record, stages: pd.DataFrame) -> Block:
    panels = [
        ("ttft_ms", "Time to first token, ms", BLUE),
        ("prefill_tps", "Prefill by the server's clock, tokens/s", GREEN),
        ("decode_tps", "Decode rate of a request, tokens/s", ORANGE),
    ]
    panels = [panel for panel in panels if stages[f"{panel[0]}_median"].notna().any()]
    with drawing(WIDE_IN, 3.0) as figure:
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (metric, title, colour) in zip(grid, panels, strict=True):
            _line(axes, stages, metric, colour)
            axes.set_title(title)
            values = stages[f"{metric}_median"]
            _level_axis(axes, record, stages)
            if metric == "ttft_ms" and values.max() > 8 * values.min() > 0:
                axes.set_yscale("log")
                _plain(axes.yaxis, float(values.min()), float(values.max()))
            else:
                axes.set_ylim(0, float(values.max()) * 1.2)
            for name, limit in record.header["load"]["slo"].items():
                if runs.objective(name)[0] == metric:
                    _slo(axes, float(limit))
            axes.set_xlabel(AXES["prompt_tokens"])
        first, *_, last = stories.levels(stages)
        return block(
            figure,
            "by-level",
            alt=f"Median time to first token from {span(first['ttft_ms_median'])} at {first['name']} to "
            f"{span(last['ttft_ms_median'])} at {last['name']}.",
            caption="Medians, with their intervals at 95 % of confidence where there are enough requests.",
        )


def _latency(axes: Axes, record: Record, stages: pd.DataFrame, metric: str) -> None:
    _line(axes, stages, metric, BLUE)
    labels = [(float(stages[f"{metric}_median"].iloc[-1]), "median", BLUE)]
    tail = stages[f"{metric}_p95"]
    if tail.notna().any():
        axes.plot(stages["level"], tail, "--", color=PURPLE)
        labels.append((float(tail.dropna().iloc[-1]), "p95", PURPLE))
    values = pd.concat([stages[f"{metric}_median"], tail]).dropna()
    limits = [float(v) for name, v in record.header["load"]["slo"].items() if runs.objective(name)[0] == metric]
    if values.max() > 8 * values.min() > 0:
        axes.set_yscale("log")
        _plain(axes.yaxis, min([float(values.min()), *limits]), max([float(values.max()), *limits]))
    else:
        axes.set_ylim(0, max([float(values.max()), *limits]) * 1.25)
    for limit in limits:
        _slo(axes, limit)
    end_labels(axes, labels)
    axes.set_title(f"{LATENCIES[metric]}, ms")


def _line(axes: Axes, stages: pd.DataFrame, metric: str, colour: str) -> None:
    """Medians with their intervals; levels that are not valid are hollow."""
    level, median = stages["level"], stages[f"{metric}_median"]
    axes.plot(level, median, "-", color=colour)
    for valid, face in ((True, colour), (False, "none")):
        rows = stages["valid"] == valid
        axes.plot(level[rows], median[rows], "o", color=colour, markerfacecolor=face, markersize=4.5)
    sure = stages[f"{metric}_low"].notna()
    axes.fill_between(level[sure], stages[f"{metric}_low"][sure], stages[f"{metric}_high"][sure], color=colour,
                      alpha=0.2, linewidth=0)  # fmt: skip


def _level_axis(axes: Axes, record: Record, stages: pd.DataFrame) -> None:
    """The levels themselves as ticks, as far as they have room."""
    levels = np.unique(stages["level"].dropna().to_numpy())
    if len(levels) and levels[-1] > LOG_RANGE * levels[0] > 0:
        axes.set_xscale("log")
        axes.set_xlim(levels[0] / 1.15, levels[-1] * 1.15)
    else:
        axes.set_xlim(0, levels[-1] * 1.05)
    log = axes.get_xscale() == "log"
    places = np.log(levels) if log else levels
    reach, kept = (places[-1] - places[0]) or 1.0, [0]
    for place in range(1, len(levels)):
        if places[place] - places[kept[-1]] >= reach * 0.055:
            kept.append(place)
    shown = levels[kept]
    axes.set_xticks(shown, [f"{level / 1000:.3g}k" if level >= 10_000 else f"{level:,g}" for level in shown])
    axes.xaxis.set_minor_locator(NullLocator())


def _slots(axes: Axes, record: Record, stages: pd.DataFrame, *, named: bool) -> None:
    """Where the server's slots are all taken: what is beyond them waits."""
    slots = runs.slots(record)
    if not slots or runs.axis(record) != "concurrency" or stages["level"].max() < slots:
        return
    right = axes.get_xlim()[1]
    axes.axvspan(slots, right, color=PURPLE, alpha=0.08, linewidth=0)
    axes.axvline(slots, color=PURPLE, linewidth=1)
    if named:
        axes.annotate(f"{slots} slots; beyond, requests wait", (slots, 0.04), xycoords=("data", "axes fraction"),
                      xytext=(4, 0), textcoords="offset points", color=PURPLE, fontsize=8.5)  # fmt: skip


def _slo(axes: Axes, limit: float) -> None:
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


def _name(axes: Axes, x: Floats, y: Floats, names: Sequence[str], ringed: Sequence[bool]) -> None:
    """A name at each mark, above it where there is room, else beside or below; clear of the ring of the knee."""
    marks = axes.transData.transform(np.column_stack([x, y]))
    taken: list[tuple[float, float]] = []
    for name, mark, (left, bottom), ring in zip(names, zip(x, y, strict=True), marks, ringed, strict=True):
        around = ((0, 10), (0, -10), (11, 0), (-11, 0), (12, 10), (-12, 10), (12, -10), (-12, -10), (0, 20))
        for right, up in [(1.5 * a, 1.5 * b) for a, b in around] if ring else around:
            place = (left + right * POINT, bottom + up * POINT)
            others = [(a, b) for a, b in [*taken, *map(tuple, marks)] if (a, b) != (left, bottom)]
            if all(abs(place[0] - a) > 11 * POINT or abs(place[1] - b) > 9 * POINT for a, b in others):
                break
        taken.append(place)
        axes.annotate(
            name, mark, xytext=(right, up), textcoords="offset points", ha="center", va="center", fontsize=8.5
        )


def _plain(axis: Axis, low: float, high: float) -> None:
    """Ticks of a logarithmic axis as plain numbers: 1, 2 and 5 of each power of ten, or fewer over many powers."""
    powers = range(int(np.floor(np.log10(low))) - 1, int(np.ceil(np.log10(high))) + 2)
    steps = (1, 2, 5) if high < 300 * low else (1,)
    ticks = [step * 10.0**power for power in powers for step in steps]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_locator(NullLocator())


def _beyond(record: Record, level: float) -> bool:
    slots = runs.slots(record)
    return bool(slots and runs.axis(record) == "concurrency" and level > slots)
