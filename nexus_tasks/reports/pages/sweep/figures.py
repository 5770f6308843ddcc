"""Figure of a sweep's page: throughput against latency.

figures.against_latency(record)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from nexus_tasks.core.text import number
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import frames, levels
from nexus_tasks.reports.drawing import BLUE, INK, ORANGE, PURPLE, WIDE_IN, block, drawing, log_ticks
from nexus_tasks.reports.frames import Floats
from nexus_tasks.reports.level_figures import AXES, slo_line
from nexus_tasks.reports.markup import Block
from nexus_tasks.stats.metrics import ITL, TOTAL, TTFT, parse
from nexus_tasks.views import runs

POINT = 100 / 72  # pixels of a figure that is drawn at matplotlib's resolution


def against_latency(record: BenchmarkRecord) -> Block:
    """Throughput against latency: each mark a level. Up is slower for the user, right is more for the server."""
    stages = frames.stages(record)
    rate = levels.throughput(stages)
    metrics = [one for one in (TTFT, ITL, TOTAL) if stages[f"{one.key}_median"].notna().any()][:2]
    knee = levels.knee_of(record, stages)
    if not metrics or len(stages) < 2 or knee is None:
        return Block("")
    with drawing(WIDE_IN, 3.6) as figure:
        grid = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axes, metric in zip(grid, metrics, strict=True):
            part = "p95" if stages[f"{metric.key}_p95"].notna().all() else "median"
            latency = stages[f"{metric.key}_{part}"]
            axes.plot(stages[rate.key], latency, "-", color=INK, linewidth=0.8)
            for row, value in zip(levels.rows(stages), latency, strict=True):
                queues = _beyond(record, row["level"])
                axes.plot(row[rate.key], value, "D" if queues else "o", color=PURPLE if queues else BLUE, markersize=6,
                          markerfacecolor=(PURPLE if queues else BLUE) if row["valid"] else "none")  # fmt: skip
            axes.plot(float(knee[rate.key]), float(knee[f"{metric.key}_{part}"]), "o", markersize=14,
                      markerfacecolor="none", markeredgecolor=ORANGE, markeredgewidth=1.5)  # fmt: skip
            if latency.max() > 8 * latency.min() > 0:
                axes.set_yscale("log")
                log_ticks(axes.yaxis, float(latency.min()), float(latency.max()))
            else:
                axes.set_ylim(0, float(latency.max()) * 1.2)
            for name, limit in record.header.load.slo.items():
                if parse(name)[0].key == metric.key:
                    slo_line(axes, float(limit))
            axes.set_xlim(0, float(stages[rate.key].max()) * 1.12)
            names = [f"{level:g}" for level in stages["level"]]
            ringed = [int(stage) == int(knee["stage"]) for stage in stages["stage"]]
            _name(axes, stages[rate.key].to_numpy(), latency.to_numpy(), names, ringed)
            axes.set_title(f"{metric.title}, {part}, {metric.unit}")
            axes.set_xlabel(f"throughput, {rate.unit}")
        queueing = any(_beyond(record, value) for value in stages["level"])
        more = " Purple diamonds are levels beyond the server's slots: what is added there waits." if queueing else ""
        return block(
            figure,
            "against-latency",
            alt=f"Throughput against latency at {len(stages)} levels; the knee is at {knee['name']}, with "
            f"{number(knee[rate.key], rate.unit)}.",
            caption=f"Each mark is a level, named by its {AXES[runs.axis(record)]}; the orange ring is the knee.{more}",
        )


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


def _beyond(record: BenchmarkRecord, level: float) -> bool:
    slots = runs.slots(record)
    return bool(slots and runs.axis(record) == "concurrency" and level > slots)
