"""Figure of a run over time: tokens per second, with the load and the telemetry of the same seconds below.

timeline.over_time(record)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from nexus_tasks.core.text import number
from nexus_tasks.records.reading import Row
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import frames
from nexus_tasks.reports.drawing import BAD, BLUE, INK, LABELLED_ROWS, ORANGE, SERIES, WIDE_IN, block, drawing
from nexus_tasks.reports.markup import Block, note
from nexus_tasks.views import runs

STAGES_NAMED = 12  # more levels than this, and their names run into each other
REQUESTS_PANEL = "Requests in flight, slots and queue"


def over_time(record: BenchmarkRecord) -> Block:
    """Tokens per second over the run, with the load and the telemetry of the same seconds below."""
    rate, samples, requests = frames.token_rate(record), frames.samples(record), frames.requests(record)
    panels, constant = _moving(_telemetry_panels(record, samples))
    if rate.empty and not panels:
        return note("There is neither a token nor a sample to draw over time.", "bad")
    heights = ([1.7] if len(rate) else []) + [1.0] * len(panels)
    with drawing(WIDE_IN, 0.6 + 1.15 * sum(heights)) as figure:
        grid = figure.subplots(
            len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]  # fmt: skip
        if len(rate):
            top: Axes = grid[0]
            edges = np.append(rate["t_s"].to_numpy(), _end_s(rate))
            top.stairs(rate["tokens_per_second"].to_numpy(), edges, color=ORANGE, fill=True, alpha=0.25, linewidth=0)
            top.step(rate["t_s"], rate["tokens_per_second"], where="post", color=ORANGE)
            top.set_title("Tokens decoded, tokens/s")
            top.set_ylim(bottom=0)
        for axes, (title, lines) in zip(grid[len(heights) - len(panels) :], panels.items(), strict=True):
            _panel(axes, title, lines)
        few = len(requests) <= LABELLED_ROWS
        for axes in grid:
            if few:
                for start, wait in zip(requests["intended_s"], requests["ttft_ms"], strict=True):
                    if wait == wait:
                        axes.axvspan(start, start + wait / 1000, color=BLUE, alpha=0.13, linewidth=0)
            for begun, ended in _uncounted(requests):
                axes.axvspan(begun, ended, color=INK, alpha=0.12, linewidth=0)
        _stage_marks(grid, record)
        grid[-1].set_xlabel("seconds since the run began")
        grid[-1].set_xlim(left=0)
        width_ms = (_end_s(rate) - float(rate["t_s"].iloc[-1])) * 1000 if len(rate) else float("nan")
        busy = rate.loc[rate["tokens_per_second"] > 0, "tokens_per_second"]
        seen = [f"{title.split(',')[0]}" for title in panels]
        words = [f"Steps of {number(width_ms, 'ms')}, first tokens left out."] if len(rate) else []
        words += ["The blue bands are the waits for a first token."] if few and len(rate) else []
        words += ["Grey is what doesn't count: warm-up and ramp."] if _uncounted(requests) else []
        words += [f"Hardly moved: {', '.join(constant)}."] if constant else []
        return block(
            figure,
            "timeline",
            alt=f"Tokens per second over {number(_end_s(rate), 's')}, "
            f"at most {number(busy.max(), 'tokens/s')}" + (f"; below it {', '.join(seen)}." if seen else "."),
            caption=" ".join(words),
        )


def _telemetry_panels(record: BenchmarkRecord, samples: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Titles with units, and under each the lines to draw, times and values; readings that nobody reported are left
    out.
    """
    panels: dict[str, dict[str, Any]] = {}
    flight = frames.in_flight(record)
    if flight["in_flight"].max() > 1:
        panels[REQUESTS_PANEL] = {"in flight": (flight["t_s"], flight["in_flight"])}
    sources = list(dict.fromkeys(samples["source"].dropna()))
    readings = {
        "GPU load, %": ("utilization_percent", 1),
        "GPU memory in use, GiB": ("memory_used_mib", 1024),
        "GPU power, W": ("power_w", 1),
        "GPU clock, MHz": ("clock_mhz", 1),
        "GPU temperature, °C": ("temperature_c", 1),
    }
    for source in sources:
        rows = samples[samples["source"] == source]
        of = "" if len(sources) == 1 else f"{source} "

        def add(title: str, label: str, values: Any, times: Any = rows["t_s"]) -> None:
            if values.notna().any():
                panels.setdefault(title, {})[label] = (times[values.notna()], values.dropna())

        several = samples.loc[samples["slots_busy"].notna(), "source"].nunique() > 1
        for column, label in (("slots_busy", "slots busy"), ("waiting", "waiting in the server")):
            add(REQUESTS_PANEL, f"{of if several else ''}{label}", rows[column])
        add("Processor, %", f"{of}all cores", rows["cpu_percent"])
        add("Memory in use, GiB", f"{of}memory", rows["memory_used_mib"] / 1024)
        for title, (reading, divisor) in readings.items():
            for column in [str(column) for column in samples if re.fullmatch(rf"gpu\d+_{reading}", str(column))]:
                name = column.split("_")[0].replace("gpu", "GPU ")
                add(title, f"{of}{name}", rows[column] / divisor)
                slowed = rows.get(f"{column.split('_')[0]}_throttled")
                if reading == "clock_mhz" and slowed is not None and slowed.fillna("").ne("").any():
                    marked = slowed.fillna("").ne("") & rows[column].notna()
                    panels[title][f"{of}{name} slowed down"] = (rows["t_s"][marked], rows[column][marked])
    return panels


def _moving(panels: dict[str, dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The panels worth drawing, and in words those whose only line is level to within two percent."""
    moving, level = {}, []
    for title, lines in panels.items():
        (_, values), *more = lines.values()
        middle = float(values.median())
        if not more and values.max() - values.min() <= 0.02 * abs(middle):
            name, _, unit = title.partition(", ")
            level.append(f"{name[0].lower() if name[1].islower() else name[0]}{name[1:]} {number(middle, unit)}")
        else:
            moving[title] = lines
    return moving, level


def _panel(axes: Axes, title: str, lines: Row) -> None:
    """One strip of the timeline: a line each, named at its side where there are several."""
    for colour, (label, (times, values)) in zip(SERIES * 8, lines.items(), strict=False):
        name = label if len(lines) > 1 else None
        if label.endswith("slowed down"):
            axes.plot(times, values, "X", color=BAD, markersize=4, label=name, linestyle="none")
        else:
            axes.plot(times, values, color=colour, label=name, linewidth=1.2)
    axes.set_title(title)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if title.endswith("%"):
        axes.set_ylim(0, 105)
    elif not title.endswith(("°C", "MHz")):
        axes.set_ylim(bottom=0, top=max(float(values.max()) for _, values in lines.values()) * 1.15 or 1)
    if len(lines) > 1:
        axes.legend(loc="lower right", ncols=len(lines), bbox_to_anchor=(1, 1), borderaxespad=0)


def _uncounted(requests: pd.DataFrame) -> list[tuple[float, float]]:
    """The spans, one a stage, in which every request that was sent doesn't count."""
    spans = []
    for _, rows in requests.groupby("stage"):
        counted = rows.loc[rows["phase"] == "run", "start_s"]
        before = rows.loc[rows["phase"] != "run", "start_s"]
        if len(before) and len(counted) and before.min() < counted.min():
            spans.append((float(before.min()), float(counted.min())))
    return spans


def _stage_marks(grid: Iterable[Axes], record: BenchmarkRecord) -> None:
    """Dotted lines where the level of load changes, named at the top."""
    marks = [(row.watch.begun_s, runs.level_name(row)) for row in record.stages if row.watch]
    if len({name for _, name in marks}) < 2:
        return
    top, *_ = grid
    for axes in grid:
        for begun, _ in marks:
            axes.axvline(begun, color=INK, linewidth=0.6, linestyle=":")
    for begun, name in marks if len(marks) <= STAGES_NAMED else []:
        top.annotate(
            name.removeprefix("concurrency ").removesuffix(" prompt tokens"), (begun, 1), xytext=(2, -2), fontsize=8,
            xycoords=("data", "axes fraction"), textcoords="offset points", va="top",
        )  # fmt: skip


def _end_s(rate: pd.DataFrame) -> float:
    """The right edge of the last bin."""
    times = rate["t_s"].to_numpy()
    return float(2 * times[-1] - times[-2]) if len(times) > 1 else float(times[-1]) if len(times) else 0.0
