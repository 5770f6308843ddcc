"""The figures of a report: inline SVG that follows the page's light or dark colours.

    figures.latencies(record)
    figures.fleet_timeline(state)

Each figure is a block with a caption and, for those who can't see it, a sentence with its main numbers.
Colours are drawn as the values of PALETTE and then named (``var(--blue, #…)``), so the page's style sheet
decides; outside a page the values here hold, which are legible on white and on near-black.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from nexus_tasks import blocks, fleet, frames, runs
from nexus_tasks.fleet import Deployment, Fleet
from nexus_tasks.frames import Floats, History
from nexus_tasks.markup import SKIN, Block, fill, note, number, percent
from nexus_tasks.results import Record, Row

PALETTE = {
    "ink": "#707a86",
    "grid": "#80808a",
    "blue": "#2f80c2",
    "orange": "#c9651b",
    "green": "#1d8f6d",
    "purple": "#9a62ab",
    "bad": "#cc4a40",
}
BLUE, ORANGE, GREEN, PURPLE, INK, BAD = (PALETTE[name] for name in ("blue", "orange", "green", "purple", "ink", "bad"))
SERIES = (BLUE, ORANGE, GREEN, PURPLE)

WIDE_IN, HALF_IN = 9.4, 4.9
LABELLED_ROWS = 30  # more requests than this, and a bar chart's labels run into each other
MARKS = {  # of a host in a deployment: shape, colour, filled
    "verified": ("o", GREEN, True),
    "unchanged": ("o", INK, False),
    "restored": ("D", ORANGE, True),
    "failed": ("X", BAD, True),
    "stopped": ("s", INK, False),
}
PANELS = 12  # more instances than this, and their decode speeds fill the page
LOG_SPREAD = 8.0  # a linear axis whose longest value is this many medians hides the rest


def latencies(record: Record) -> Block:
    """TTFT and inter-token latency side by side: points where there are few, else their distribution."""
    requests = frames.counted(frames.requests(record)).dropna(subset=["ttft_ms"])
    measured = runs.metrics(record)
    gaps = frames.inter_token_ms(record)
    return _side_by_side(
        _distribution("ttft", "Time to first token", requests["ttft_ms"].to_numpy(), measured.get("ttft_ms")),
        _distribution("itl", "Inter-token latency", gaps, measured.get("itl_ms")),
    )


def breakdown(record: Record) -> Block:
    """What each request's time went into: waiting for the first token, decoding, and the rest."""
    frame = frames.requests(record).dropna(subset=["ttft_ms", "decode_ms", "total_ms"])
    if frame.empty:
        return note("No request got as far as a token, so there is no time to break down.", "bad")
    rest = (frame["total_ms"] - frame["ttft_ms"] - frame["decode_ms"]).clip(lower=0)
    parts = [
        ("to first token", frame["ttft_ms"], BLUE),
        ("decode", frame["decode_ms"], ORANGE),
        ("end", rest, INK),
    ]
    rows = np.arange(len(frame))
    with drawing(WIDE_IN, min(0.9 + 0.27 * len(frame), 6.5)) as figure:
        axes = figure.subplots()
        left = np.zeros(len(frame))
        faded = [0.45 if phase == "warmup" else 1.0 for phase in frame["phase"]]
        for _, values, colour in parts:
            bars = axes.barh(rows, values, left=left, height=0.72, color=colour)
            for bar, alpha in zip(bars, faded, strict=True):
                bar.set_alpha(alpha)
            left += values.to_numpy()
        labelled = len(frame) <= LABELLED_ROWS
        if labelled:
            for row, end, rate in zip(rows, left, frame["decode_tps"], strict=True):
                axes.annotate(
                    f"{number(end)} ms, {number(rate)} tokens/s",
                    (float(end), float(row)),
                    xytext=(5, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8.5,
                )
            axes.set_yticks(rows, [_request_name(i, p) for i, p in zip(frame["index"], frame["phase"], strict=True)])
        else:
            axes.set_ylabel("request")
        axes.set_xlim(0, float(left.max()) * (1.24 if labelled else 1.02))
        axes.set_ylim(-0.6, len(frame) - 0.4)
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.set_xlabel("ms since the request was sent")
        keys = [Patch(color=colour, label=label) for label, _, colour in parts]
        axes.legend(handles=keys, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, handlelength=1)
        typical = frames.counted(frame)[["ttft_ms", "decode_ms", "total_ms"]].median()
        return block(
            figure,
            "breakdown",
            alt=f"Bars of {len(frame)} requests. A median one took {number(typical['total_ms'], 'ms')}, "
            f"{number(typical['ttft_ms'], 'ms')} of it to the first token.",
            caption="One bar a request; warm-ups are pale. The end is what passed between the last token and "
            "the end of the stream.",
        )


def timeline(record: Record) -> Block:
    """Tokens per second over the run, with the telemetry of the same seconds below."""
    rate, samples, requests = frames.token_rate(record), frames.samples(record), frames.requests(record)
    panels = _telemetry_panels(samples)
    if rate.empty and not panels:
        return note("There is neither a token nor a sample to draw over time.", "bad")
    with drawing(WIDE_IN, 2.3 + 1.25 * len(panels)) as figure:
        grid = figure.subplots(
            1 + len(panels),
            1,
            sharex=True,
            squeeze=False,
            gridspec_kw={"height_ratios": [1.7] + [1] * len(panels)},
        )
        top: Axes = grid[0, 0]
        top.stairs(
            rate["tokens_per_second"].to_numpy(),
            np.append(rate["t_s"].to_numpy(), _end_s(rate)),
            color=ORANGE,
            fill=True,
            alpha=0.25,
            linewidth=0,
        )
        top.step(rate["t_s"], rate["tokens_per_second"], where="post", color=ORANGE)
        top.set_title("Tokens decoded, tokens/s")
        for axes, (title, columns) in zip(grid[1:, 0], panels.items(), strict=True):
            for colour, (label, values) in zip(SERIES * 8, columns.items(), strict=False):
                axes.plot(samples["t_s"], values, color=colour, label=label if len(columns) > 1 else None)
            axes.set_title(title)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            if title.endswith("%"):
                axes.set_ylim(0, 105)
            elif not title.endswith("°C"):
                axes.set_ylim(bottom=0, top=max(float(v.max()) for v in columns.values()) * 1.15 or 1)
            if len(columns) > 1:
                axes.legend(loc="lower right", ncols=len(columns), bbox_to_anchor=(1, 1), borderaxespad=0)
        for axes in grid[:, 0]:
            for start, wait in zip(requests["start_s"], requests["ttft_ms"], strict=True):
                if wait == wait:
                    axes.axvspan(start, start + wait / 1000, color=BLUE, alpha=0.13, linewidth=0)
        top.set_ylim(bottom=0)
        grid[-1, 0].set_xlabel("seconds since the run began")
        grid[-1, 0].set_xlim(left=0)
        width_ms = (_end_s(rate) - float(rate["t_s"].iloc[-1])) * 1000 if len(rate) else float("nan")
        busy = rate.loc[rate["tokens_per_second"] > 0, "tokens_per_second"]
        seen = [f"{title.split(',')[0]}" for title in panels]
        return block(
            figure,
            "timeline",
            alt=f"Tokens per second over {number(_end_s(rate), 's')}, "
            f"at most {number(busy.max(), 'tokens/s')}" + (f"; below it {', '.join(seen)}." if seen else "."),
            caption=f"Steps of {number(width_ms, 'ms')}, first tokens left out. The blue bands are the waits "
            "for a first token." + ("" if panels else " No telemetry was recorded."),
        )


def agreement(record: Record, limit_percent: float) -> Block:
    """How far the client's decode time of each request is from the server's own."""
    frame = frames.requests(record).dropna(subset=["difference_percent"])
    if frame.empty:
        return Block("")
    warm = frame["phase"] == "warmup"
    differences = frame["difference_percent"]
    with drawing(WIDE_IN, 2.2) as figure:
        axes = figure.subplots()
        axes.axhspan(-limit_percent, limit_percent, color=GREEN, alpha=0.12, linewidth=0)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.plot(frame["index"][~warm], differences[~warm], "o", color=BLUE, label="run")
        if warm.any():
            axes.plot(
                frame["index"][warm],
                differences[warm],
                "o",
                color=INK,
                markerfacecolor="none",
                label="warm-up",
            )
            axes.legend(loc="lower right", ncols=2, bbox_to_anchor=(1, 1), borderaxespad=0)
        reach = max(limit_percent * 1.25, float(differences.abs().max()) * 1.15)
        axes.set_ylim(-reach, reach)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("request")
        axes.set_title("Client's decode time against the server's, %")
        return block(
            figure,
            "agreement",
            alt=f"Differences of {len(frame)} requests, from {percent(differences.min())} to "
            f"{percent(differences.max())}.",
            caption=f"The green band is the mark of ±{limit_percent:g} %. Above zero, the client waited "
            "longer than the server says it worked.",
        )


def history(past: History) -> Block:
    """Medians of this run and of the earlier ones that compare, with their ranges, oldest first."""
    comparable = past.runs[past.runs["comparable"]].iloc[::-1].reset_index(drop=True)
    plots = [
        _trend(comparable, name, colour)
        for name, colour in (("decode_tps", ORANGE), ("ttft_ms", BLUE))
        if comparable[f"{name}_median"].count() > 1
    ]
    return _side_by_side(*plots) if plots else Block("")


def fleet_timeline(state: Fleet, limit: int) -> Block:
    """What became of each host in the last deployments: one column a deployment, oldest first."""
    shown = state.real[-limit:] if limit > 0 else []
    hosts = [host for host in state.hosts if any(deployment.outcomes.get(host) for deployment in shown)]
    if not hosts:
        return note("No deployment has come as far as an instance.")
    with drawing(WIDE_IN, 1.15 + 0.3 * len(hosts)) as figure:
        axes = figure.subplots()
        drawn = []
        for name, (marker, colour, filled) in MARKS.items():
            points = [
                (column, hosts.index(host))
                for column, deployment in enumerate(shown)
                for host, became in deployment.outcomes.items()
                if became == name
            ]
            if points:
                drawn.append(f"{len(points)} {name}")
                axes.plot(
                    *zip(*points, strict=True), marker, color=colour, markersize=7.5, label=name, markeredgewidth=1.3,
                    markerfacecolor=colour if filled else "none", markeredgecolor=colour,
                )  # fmt: skip
        for column, deployment in enumerate(shown):
            if fleet.interrupted(deployment.record):
                axes.axvline(column, color=BAD, linewidth=0.9, linestyle=":")
        axes.set_yticks(range(len(hosts)), hosts)
        axes.set_ylim(len(hosts) - 0.4, -0.6)
        _deployment_ticks(axes, shown)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(drawn), handletextpad=0.2)
        cut = sum(1 for deployment in shown if fleet.interrupted(deployment.record))
        return block(
            figure,
            "fleet-timeline",
            alt=f"{_count(len(shown), 'deployment')} to {_count(len(hosts), 'host')}: {', '.join(drawn)}.",
            caption="One column a deployment, times in UTC. No mark: the deployment didn't concern the host, or "
            "didn't come as far as its instances." + (" A dotted line: it was interrupted." if cut else ""),
        )  # fmt: skip


def fleet_decode(state: Fleet, limit: int) -> Block:
    """Decode speed of each instance at every proof of the last deployments."""
    shown = state.real[-limit:] if limit > 0 else []
    lines: dict[str, list[tuple[int, float, str, str]]] = {}
    for column, deployment in enumerate(shown):
        for host in deployment.record.hosts:
            for row in fleet.reported(host):
                speed = fleet.served(row).get("tokens_per_second")
                if row["state"] in fleet.PROVEN and speed:
                    release = str(fleet.served(row).get("release") or "")
                    line = lines.setdefault(f"{host['host']}/{row['name']}", [])
                    line.append((column, speed, release, row["state"]))
    if not lines:
        return Block("")
    names = sorted(lines)[:PANELS]
    rows = -(-len(names) // 2)
    with drawing(WIDE_IN, 0.5 + 1.35 * rows) as figure:
        grid = figure.subplots(rows, 2, sharex=True, squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            columns, speeds, releases, states = zip(*lines[name], strict=True)
            axes.plot(columns, speeds, "-o", color=BLUE, markersize=3.5)
            restored = [index for index, one in enumerate(states) if one == "restored"]
            axes.plot([columns[i] for i in restored], [speeds[i] for i in restored], "D", color=ORANGE, markersize=5.5)
            for before, (column, release) in zip(releases, list(zip(columns, releases, strict=True))[1:], strict=False):
                if release != before:
                    axes.axvline(column, color=PURPLE, linewidth=1, linestyle="--")
            axes.set_ylim(0, max(speeds) * 1.2)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.set_title(f"{name}, tokens/s")
            _deployment_ticks(axes, shown, 4)
        for axes in grid.flat[len(names) :]:
            axes.set_axis_off()
        if len(names) % 2 and rows > 1:
            grid[-2, 1].tick_params(labelbottom=True)
        parts = ", ".join(f"{name} {number(lines[name][-1][1])}" for name in names)
        left_out = len(lines) - len(names)
        return block(
            figure,
            "fleet-decode",
            alt=f"Decode speed at the last proof, in tokens per second: {parts}.",
            caption="Of the timed completion in each proof; a short one, so small changes are noise. A dashed "
            "line: the first proof with another release. A diamond: what serves on after a deployment that failed."
            + (f" {left_out} more instances are not drawn." if left_out else ""),
        )


def _deployment_ticks(axes: Axes, shown: Sequence[Deployment], most: int = 8) -> None:
    """Columns are deployments: dates under some of them, the last one among these."""
    step = -(-len(shown) // most)
    marked = list(range((len(shown) - 1) % step, len(shown), step))
    axes.set_xticks(marked, [f"{shown[column].record.started_at:%d %b\n%H:%M}" for column in marked])
    axes.set_xlim(-0.6, len(shown) - 0.4)
    axes.grid(False, axis="x")


def _trend(past: pd.DataFrame, name: str, colour: str) -> Block:
    title, unit, _ = blocks.METRICS[name]
    median = past[f"{name}_median"]
    with drawing(HALF_IN, 2.5) as figure:
        axes = figure.subplots()
        axes.vlines(past.index, past[f"{name}_min"], past[f"{name}_max"], color=colour, alpha=0.45, linewidth=3)
        axes.plot(past.index, median, "-o", color=colour, markersize=4.5)
        axes.set_ylim(bottom=0, top=float(past[f"{name}_max"].max()) * 1.12)
        axes.set_xlim(-0.5, len(past) - 0.5)
        axes.grid(False, axis="x")
        step = -(-len(past) // 5)
        shown = range((len(past) - 1) % step, len(past), step)
        axes.set_xticks(list(shown), [f"{past['started_at'][i]:%d %b\n%H:%M}" for i in shown])
        axes.set_title(f"{title}, {unit}")
        return block(
            figure,
            f"history-{name}",
            alt=f"{title} over {len(past)} past, from {number(median.iloc[0], unit)} to "
            f"{number(median.iloc[-1], unit)}.",
            caption="Medians with their range; the last point is this run. Times in UTC.",
            width="half",
        )


def _distribution(name: str, title: str, values: Floats, stats: Row | None) -> Block:
    """Points in the order they came where there are fewer than 20, else a histogram with its percentiles."""
    if not len(values):
        return note(f"{title}: nothing was measured.", "bad")
    few = len(values) < 20
    with drawing(HALF_IN, 2.9) as figure:
        axes = figure.subplots()
        if few:
            axes.plot(values, np.arange(1, len(values) + 1), "o", color=BLUE, markersize=6)
            axes.set_ylim(len(values) + 0.6, 0.1)
            axes.set_yticks(range(1, len(values) + 1))
            axes.set_ylabel("request, in order")
            low, high = float(values.min()), float(values.max())
            # Three points within one percent must not look far apart: the axis spans 10 % at least.
            pad = max((high - low) * 0.15, (low + high) / 2 * 0.05)
            axes.set_xlim(max(0.0, low - pad), high + pad)
        else:
            _histogram(axes, values)
        axes.set_title(f"{title}, ms")
        marks = [("median", "median"), *((p, p) for p in ("p95", "p99"))]
        _mark(axes, [(label, stats[key]) for label, key in marks if stats and stats.get(key) is not None])
        spread = f"{number(values.min())} to {number(values.max(), 'ms')}"
        middle = f", median {number(stats['median'], 'ms')}" if stats else ""
        outliers = "" if few else " Ticks along the foot are the slowest 1 %."
        return block(
            figure,
            name,
            alt=f"{title} of {len(values)} points: {spread}{middle}.",
            caption=f"n = {len(values):,}, {spread}.{outliers}",
            width="half",
        )


def _histogram(axes: Axes, values: Floats) -> None:
    """Bars of counts; a logarithmic axis where the longest value would flatten the rest."""
    middle, high = float(np.median(values)), float(values.max())
    bars = int(np.clip(3 * np.sqrt(len(values)), 12, 60))
    if high > LOG_SPREAD * middle > 0:
        # Tokens that came in one event are 0 apart: they go into the first bar.
        low = max(float(values.min()), middle / 20)
        bins = np.geomspace(low, high * 1.001, bars)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        low = float(values.min())
        bins = np.linspace(low, max(high, low * 1.01, low + 1e-3), bars)
    axes.hist(np.maximum(values, low), bins=bins.tolist(), color=BLUE, alpha=0.8)
    slow = np.sort(values)[-max(1, len(values) // 100) :]
    axes.plot(slow, np.zeros(len(slow)), "|", color=BLUE, markersize=9, clip_on=False)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_ylabel("count")


def _mark(axes: Axes, marks: Sequence[tuple[str, float]]) -> None:
    """Vertical lines, each labelled on a height of its own above the data, so that near ones stay legible."""
    bottom, top = axes.get_ylim()
    room = (top - bottom) * 0.1
    axes.set_ylim(bottom, top + room * (len(marks) + 0.3))
    middle = axes.transData.inverted().transform(axes.transAxes.transform((0.5, 0)))[0]
    for step, (label, value) in enumerate(reversed(marks)):
        height = top + room * (step + 0.9)
        axes.vlines(value, bottom, height, color=ORANGE, linewidth=1)
        left = value <= middle
        axes.annotate(
            f"{label} {number(value)}",
            (value, height),
            xytext=(4 if left else -4, 0),
            textcoords="offset points",
            ha="left" if left else "right",
            va="top",
            color=ORANGE,
            fontsize=8.5,
        )


def _telemetry_panels(samples: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Titles with units, and under each the lines to draw; readings that nobody reported are left out."""
    panels: dict[str, dict[str, Any]] = {
        "Processor, %": {"all cores": samples["cpu_percent"]},
        "Memory in use, GiB": {"memory": samples["memory_used_mib"] / 1024},
    }
    readings = {
        "GPU load, %": ("utilization_percent", 1),
        "GPU memory in use, GiB": ("memory_used_mib", 1024),
        "GPU power, W": ("power_w", 1),
        "GPU temperature, °C": ("temperature_c", 1),
    }
    for title, (reading, divisor) in readings.items():
        columns = [column for column in samples if re.fullmatch(rf"gpu\d+_{reading}", str(column))]
        panels[title] = {str(c).split("_")[0].replace("gpu", "GPU "): samples[c] / divisor for c in columns}
    filled = {title: {k: v for k, v in lines.items() if v.notna().any()} for title, lines in panels.items()}
    return {title: lines for title, lines in filled.items() if lines}


def _end_s(rate: pd.DataFrame) -> float:
    """The right edge of the last bin."""
    times = rate["t_s"].to_numpy()
    return float(2 * times[-1] - times[-2]) if len(times) > 1 else float(times[-1]) if len(times) else 0.0


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _request_name(index: int, phase: str) -> str:
    return f"warm-up {index}" if phase == "warmup" else f"request {index}"


@contextmanager
def drawing(width_in: float, height_in: float) -> Iterator[Figure]:
    """A figure in the report's style, which holds until it is saved."""
    with mpl.rc_context(fname=SKIN / "report.mplstyle"):
        yield Figure(figsize=(width_in, height_in), layout="constrained")


def block(figure: Figure, name: str, *, alt: str, caption: str, width: str = "wide") -> Block:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = _inline(stream.getvalue(), name, alt)
    return fill("blocks/figure.html", svg=svg, caption=caption, width=width)


def _inline(svg: str, name: str, alt: str) -> str:
    """An SVG file as part of a page: named colours, ids of its own, a text for screen readers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (xmlns(:\w+)?|version)="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    # matplotlib's ids are hashes of coordinates, which differ in the last digit from run to run.
    used = dict.fromkeys(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    names = {old: f"{name}-{position}" for position, old in enumerate(used)}
    svg = re.sub(r' id="([^"]+)"', lambda at: f' id="{names[at[1]]}"' if at[1] in names else "", svg)
    svg = re.sub(r'((?:url\(|href=")#)([^")]+)', lambda at: at[1] + names[at[2]], svg)
    for colour, value in PALETTE.items():
        svg = re.sub(re.escape(value), f"var(--{colour}, {value})", svg, flags=re.IGNORECASE)
    label = html.escape(alt)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _side_by_side(*parts: Block) -> Block:
    return Block(f'<div class="plots">{"".join(part.html for part in parts)}</div>')
