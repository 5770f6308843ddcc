"""Small lines of a target: its decode rate and TTFT from run to run, at a glance.

    sparklines.drawn(records)

Drawn by hand rather than with matplotlib: an index of a hundred targets has them in milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from nexus_tasks.core.text import listing, number, plural
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import frames
from nexus_tasks.reports.drawing import PALETTE
from nexus_tasks.reports.markup import Block, fill
from nexus_tasks.reports.pages.history import past
from nexus_tasks.stats.metrics import DECODE, TTFT, Metric

RUNS = 30  # the last ones: more, and the marks of a line touch
LEFT, RIGHT, HEIGHT = 46.0, 156.0, 18.0  # of a line, in CSS pixels: its name stands left of it
SMALL_SHARE = 0.2  # of the largest value: what moves less is drawn as if the axis had that range, for noise isn't news
LINES = ((DECODE, "decode", "orange"), (TTFT, "TTFT", "blue"))


def drawn(records: Sequence[BenchmarkRecord]) -> Block:
    """A line for each metric over the last runs of a target that asked what the newest did; empty where there is one.

    Args:
        records: of one target, newest first.
    """
    runs = frames.target(records[:RUNS])
    alike = runs[runs["series"] == runs["series"].iloc[-1]].reset_index(drop=True)
    shown = [line for line in LINES if alike[f"{line[0].key}_median"].notna().sum() > 1]
    if not shown:
        return Block("")
    times = list(alike["started_at"])
    changes = [mark for mark in past.marks(runs) if times[0] < mark["at"] <= times[-1]]
    steps = [next(place for place, time in enumerate(times) if time >= mark["at"]) for mark in changes]
    lines = [_line(alike, metric, name, colour, row * HEIGHT) for row, (metric, name, colour) in enumerate(shown)]
    told = [f"{name} from {line['first']} to {line['last']}" for (_, name, _), line in zip(shown, lines, strict=True)]
    changed = f"; changed: {', '.join(mark['what'] for mark in changes)}" if changes else ""
    return fill(
        "blocks/sparkline.html",
        lines=lines,
        marks=[f"{_x(step - 0.5, len(alike)):.1f}" for step in sorted(set(steps))],
        width=f"{RIGHT + 6:g}",
        height=f"{HEIGHT * len(shown) + 2:g}",
        label=f"{plural(len(alike), 'run')}: {listing(told)}{changed}",
    )


def _line(alike: pd.DataFrame, metric: Metric, name: str, colour: str, top: float) -> dict[str, object]:
    values, ok = alike[f"{metric.key}_median"], alike["ok"]
    low, high = float(values.min()), float(values.max())
    reach = max(high - low, high * SMALL_SHARE) or 1.0
    bottom = (low + high - reach) / 2
    points = [
        (_x(place, len(values)), top + HEIGHT - 4 - (value - bottom) / reach * (HEIGHT - 7))
        for place, value in enumerate(values)
        if value == value
    ]
    fine = [is_ok for is_ok, value in zip(ok, values, strict=True) if value == value]
    first, last = values.dropna().iloc[[0, -1]]
    return {
        "name": name,
        "colour": f"var(--{colour}, {PALETTE[colour]})",
        "baseline": f"{top + HEIGHT - 5:g}",
        "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in points),
        "dots": [
            {"x": f"{x:.1f}", "y": f"{y:.1f}", "ok": is_ok, "last": place == len(points) - 1}
            for place, ((x, y), is_ok) in enumerate(zip(points, fine, strict=True))
        ],
        "first": number(first),
        "last": number(last, metric.unit),
    }


def _x(place: float, count: int) -> float:
    return LEFT + (RIGHT - LEFT) * place / max(count - 1, 1)
