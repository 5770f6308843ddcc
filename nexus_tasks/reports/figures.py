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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from nexus_tasks.core.text import SPACE, number, percent, plural, span
from nexus_tasks.fleet import deployments
from nexus_tasks.fleet.deployments import Deployment, Fleet
from nexus_tasks.records import runs
from nexus_tasks.records.store import Record, Row
from nexus_tasks.reports import blocks, frames
from nexus_tasks.reports.frames import Floats, History
from nexus_tasks.reports.markup import SKIN, Block, fill, note

PALETTE = {
    "ink": "#707a86",
    "grid": "#80808a",
    "blue": "#2f80c2",
    "orange": "#c9651b",
    "green": "#1d8f6d",
    "purple": "#9a62ab",
    "bad": "#cc4a40",
}
BLUE, ORANGE, GREEN, PURPLE, INK, BAD, GRID = (
    PALETTE[name] for name in ("blue", "orange", "green", "purple", "ink", "bad", "grid")
)
SERIES = (BLUE, ORANGE, GREEN, PURPLE)

WIDE_IN, HALF_IN = 9.4, 4.9
LABELLED_ROWS = 30  # more requests than this, and a bar chart's labels run into each other
DRAWN = 600  # more marks than this, and a page takes a browser's breath
STAGES_NAMED = 12  # more levels than this, and their names run into each other
MARKS = {  # of a host in a deployment: shape, colour, filled
    "verified": ("o", GREEN, True),
    "unchanged": ("o", INK, False),
    "restored": ("D", ORANGE, True),
    "failed": ("X", BAD, True),
    "stopped": ("s", INK, False),
}
PANELS = 12  # more instances than this, and their decode speeds fill the page
REQUESTS_PANEL = "Requests in flight, slots and queue"
LABEL_ROOM = 0.7  # of a half-wide axis: a label that begins further right would leave it
LOG_SPREAD = 8.0  # a linear axis whose longest value is this many medians hides the rest


def latencies(record: Record) -> Block:
    """TTFT and inter-token latency side by side, of answers without tokens the whole request: points where there are
    few, else their distribution, with the SLOs of the run."""
    requests = frames.counted(frames.requests(record))
    measured, slo = runs.metrics(record), record.header["load"]["slo"]
    if "ttft_ms" not in measured and "total_ms" in measured:
        total = requests["total_ms"].to_numpy()
        limits = _limits(slo, "total_ms")
        return _side_by_side(_distribution("total", "Whole request", total, measured["total_ms"], limits))
    first, gaps = requests["ttft_ms"].dropna().to_numpy(), frames.inter_token_ms(record)
    return _side_by_side(
        _distribution("ttft", "Time to first token", first, measured.get("ttft_ms"), _limits(slo, "ttft_ms")),
        _distribution("itl", "Inter-token latency", gaps, measured.get("itl_ms"), _limits(slo, "itl_ms")),
    )


def waiting(record: Record) -> Block:
    """The client's time to first token beside the server's own prefill; what is between is no work on the prompt."""
    frame = frames.counted(frames.requests(record)).dropna(subset=["ttft_ms", "server_prompt_ms"])
    if frame.empty:
        return note("There is no first token of which the server says how long its prefill took.")
    names = runs.level_names(record)
    if len(set(names.values())) > 1:
        return _waiting_by_level(record, frame.assign(level=frame["stage"].map(names)))
    drawn = _thinned(frame, "ttft_ms")
    with drawing(WIDE_IN, 2.7) as figure:
        axes = figure.subplots()
        gaps = np.full(len(drawn), np.nan)  # one path with breaks: a line each would make a page of megabytes
        ends = np.column_stack([drawn["server_prompt_ms"], drawn["ttft_ms"], gaps]).ravel()
        axes.plot(np.repeat(drawn["start_s"], 3), ends, color=GRID, linewidth=0.8)
        axes.plot(drawn["start_s"], drawn["ttft_ms"], "o", color=BLUE, markersize=3.5)
        axes.plot(drawn["start_s"], drawn["server_prompt_ms"], "D", color=ORANGE, markersize=3)
        axes.set_ylim(0, float(drawn["ttft_ms"].max()) * 1.1)
        axes.set_xlim(*_spread(drawn["start_s"]))
        end_labels(
            axes,
            [
                (float(drawn["ttft_ms"].iloc[-5:].median()), "client's TTFT", BLUE),
                (float(drawn["server_prompt_ms"].iloc[-5:].median()), "server's prefill", ORANGE),
            ],
        )
        axes.set_xlabel("seconds since the run began, when the request was sent")
        axes.set_title("Time to first token and prefill, ms")
        own, server = frame["ttft_ms"].median(), frame["server_prompt_ms"].median()
        return block(
            figure,
            "waiting",
            alt=f"Of {len(frame)} requests the median TTFT is {span(own)} and the median prefill {span(server)}.",
            caption="The grey line between the two is queue, chat template and network." + _left_out(frame, drawn),
        )


def _waiting_by_level(record: Record, frame: pd.DataFrame) -> Block:
    order = [row["level"] for row in runs.stages(record) if row["level"] in set(frame["level"])]
    middle = frame.groupby("level")[["ttft_ms", "server_prompt_ms"]].median().loc[order]
    rest = (middle["ttft_ms"] - middle["server_prompt_ms"]).clip(lower=0)
    with drawing(WIDE_IN, 0.95 + 0.3 * len(order)) as figure:
        axes = figure.subplots()
        rows = np.arange(len(order))
        work = middle["server_prompt_ms"]
        axes.barh(rows, work, height=0.66, color=ORANGE, label="prefill by the server's clock")
        axes.barh(rows, rest, left=work, height=0.66, color=BLUE, label="queue, template, network")
        for row, total in zip(rows, middle["ttft_ms"], strict=True):
            axes.annotate(span(total), (float(total), float(row)), xytext=(5, 0), textcoords="offset points",
                          va="center", fontsize=8.5)  # fmt: skip
        axes.set_yticks(rows, order)
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.set_xlim(0, float(middle["ttft_ms"].max()) * 1.12)
        axes.set_xlabel("median time to first token, ms")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, handlelength=1)
        parts = ", ".join(f"{name} {span(rest[name])}" for name in order)
        return block(
            figure, "waiting", alt=f"Of the median TTFT, queue, template and network took: {parts}.",
            caption="Medians of the counted requests of each level.",
        )  # fmt: skip


def cache(record: Record) -> Block:
    """Conversations: how much of each turn's prompt the server had in its cache, and what a turn's first token took."""
    frame = frames.counted(frames.requests(record)).dropna(subset=["prompt_tokens", "cached_tokens", "ttft_ms"])
    if frame.empty or frame["turn"].nunique() < 2:
        return Block("")
    by_turn = frame.groupby("turn")[["prompt_tokens", "cached_tokens", "ttft_ms"]].median()
    fresh = (by_turn["prompt_tokens"] - by_turn["cached_tokens"]).clip(lower=0)
    with drawing(WIDE_IN, 2.6) as figure:
        left, right = figure.subplots(1, 2)
        turns = by_turn.index.to_numpy() + 1
        left.bar(turns, by_turn["cached_tokens"], width=0.7, color=GREEN, label="from the cache")
        left.bar(turns, fresh, bottom=by_turn["cached_tokens"], width=0.7, color=ORANGE, label="worked on")
        left.set_title("Prompt tokens of a turn")
        left.legend(loc="upper left", handlelength=1)
        right.plot(turns, by_turn["ttft_ms"], "-o", color=BLUE, markersize=4.5)
        right.set_ylim(0, float(by_turn["ttft_ms"].max()) * 1.2)
        right.set_title("Time to first token of a turn, ms")
        for axes in (left, right):
            axes.set_xlabel("turn of the conversation")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(False, axis="x")
        share = by_turn["cached_tokens"].iloc[-1] / by_turn["prompt_tokens"].iloc[-1] * 100
        return block(
            figure,
            "cache",
            alt=f"Of the prompt of turn {turns[-1]}, {share:.0f} % came from the cache.",
            caption="Medians over the conversations. A prompt that grows while its first token stays as fast shows a "
            "prefix cache that works.",
        )


def breakdown(record: Record) -> Block:
    """What each request's time went into: waiting for the first token, decoding, and the rest; of many, when it was
    sent and how long it took."""
    everything = frames.requests(record)
    frame = everything.dropna(subset=["ttft_ms", "decode_ms", "total_ms"]).sort_values("index")
    if len(everything) > LABELLED_ROWS or frame.empty:
        return _every_request(everything)
    rest = (frame["total_ms"] - frame["ttft_ms"] - frame["decode_ms"]).clip(lower=0)
    parts = [
        ("to first token", frame["ttft_ms"], BLUE),
        ("decode", frame["decode_ms"], ORANGE),
        ("end", rest, INK),
    ]
    rows = np.arange(len(frame))
    with drawing(WIDE_IN, 0.9 + 0.27 * len(frame)) as figure:
        axes = figure.subplots()
        left = np.zeros(len(frame))
        faded = [1.0 if phase == "run" else 0.45 for phase in frame["phase"]]
        for _, values, colour in parts:
            bars = axes.barh(rows, values, left=left, height=0.72, color=colour)
            for bar, alpha in zip(bars, faded, strict=True):
                bar.set_alpha(alpha)
            left += values.to_numpy()
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
        axes.set_xlim(0, float(left.max()) * 1.24)
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
            caption="One bar a request; those that don't count are pale. The end is what passed between the last token "
            "and the end of the stream.",
        )


def _every_request(frame: pd.DataFrame) -> Block:
    """When each request was sent and how long it took: one mark each, those that failed or stalled in their own."""
    shown = frame.dropna(subset=["total_ms"])
    if shown.empty:
        return note("No request got as far as an answer, so there is no time to show.", "bad")
    drawn = _thinned(shown, "total_ms")
    kinds = (
        ("warm-up or ramp", drawn[drawn["ok"] & (drawn["phase"] != "run")], "o", INK, "none"),
        ("counted", drawn[drawn["ok"] & (drawn["phase"] == "run")], "o", BLUE, BLUE),
        ("with a stall", drawn[drawn["ok"] & (drawn["stalls"] > 0)], "D", ORANGE, ORANGE),
        ("failed", drawn[~drawn["ok"]], "X", BAD, BAD),
    )
    with drawing(WIDE_IN, 2.8) as figure:
        axes = figure.subplots()
        said = []
        for label, rows, marker, colour, face in kinds:
            if len(rows):
                large = 3.2 if marker == "o" else 6
                axes.plot(rows["start_s"], rows["total_ms"] / 1000, marker, color=colour, markerfacecolor=face,
                          markersize=large, markeredgewidth=0.8, linestyle="none", label=label)  # fmt: skip
                said.append(f"{len(rows)} {label}")
        axes.set_ylim(0, float(drawn["total_ms"].max()) / 1000 * 1.08)
        axes.set_xlim(*_spread(drawn["start_s"]))
        axes.set_xlabel("seconds since the run began, when the request was sent")
        axes.set_title("Whole request, s")
        axes.legend(loc="lower right", ncols=len(said), bbox_to_anchor=(1, 1), borderaxespad=0, handletextpad=0.1)
        return block(
            figure,
            "breakdown",
            alt=f"Durations of {len(shown)} requests ({', '.join(said)} drawn), up to {span(shown['total_ms'].max())}.",
            caption="One mark a request; none is dropped for being slow." + _left_out(shown, drawn),
        )


def timeline(record: Record) -> Block:
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
            if deployments.interrupted(deployment.record):
                axes.axvline(column, color=BAD, linewidth=0.9, linestyle=":")
        axes.set_yticks(range(len(hosts)), hosts)
        axes.set_ylim(len(hosts) - 0.4, -0.6)
        _deployment_ticks(axes, shown)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(drawn), handletextpad=0.2)
        cut = sum(1 for deployment in shown if deployments.interrupted(deployment.record))
        return block(
            figure,
            "fleet-timeline",
            alt=f"{plural(len(shown), 'deployment')} to {plural(len(hosts), 'host')}: {', '.join(drawn)}.",
            caption="One column a deployment, times in UTC. No mark: the deployment didn't concern the host, or "
            "didn't come as far as its instances." + (" A dotted line: it was interrupted." if cut else ""),
        )  # fmt: skip


def fleet_decode(state: Fleet, limit: int) -> Block:
    """Decode speed of each instance at every proof of the last deployments."""
    shown = state.real[-limit:] if limit > 0 else []
    lines: dict[str, list[tuple[int, float, str, str]]] = {}
    for column, deployment in enumerate(shown):
        for host in deployment.record.hosts:
            for row in deployments.reported(host):
                speed = deployments.served(row).get("tokens_per_second")
                if row["state"] in deployments.PROVEN and speed:
                    release = str(deployments.served(row).get("release") or "")
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


def _limits(slo: Row, metric: str) -> list[tuple[str, float]]:
    """The SLOs that bound a metric, as labels and values."""
    return [("SLO", float(limit)) for name, limit in slo.items() if runs.objective(name)[0] == metric]


def _distribution(
    name: str, title: str, values: Floats, stats: Row | None, limits: Sequence[tuple[str, float]] = ()
) -> Block:
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
        _mark(axes, [(label, stats[key], ORANGE) for label, key in marks if stats and stats.get(key) is not None]
              + [(label, limit, BAD) for label, limit in limits])  # fmt: skip
        spread = f"{number(values.min())} to {number(values.max(), 'ms')}"
        middle = f", median {number(stats['median'], 'ms')}" if stats else ""
        outliers = "" if few else f" Ticks along the foot are the slowest 1{SPACE}%."
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
            f"{label} {number(value)}",
            (value, height),
            xytext=(4 if left else -4, 0),
            textcoords="offset points",
            ha="left" if left else "right",
            va="top",
            color=colour,
            fontsize=8.5,
        )


def _telemetry_panels(record: Record, samples: pd.DataFrame) -> dict[str, dict[str, Any]]:
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


def _stage_marks(grid: Iterable[Axes], record: Record) -> None:
    """Where the levels of a run change."""
    marks = [(row["watch"]["begun_s"], runs.level_name(row)) for row in record.stages if row["watch"]]
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


def _thinned(frame: pd.DataFrame, slowest_by: str) -> pd.DataFrame:
    """At most DRAWN rows, in order: what failed, what stalled, the slowest, and of the others one in so many."""
    if len(frame) <= DRAWN:
        return frame.sort_values("start_s")
    slow = frame[slowest_by].rank(ascending=False) <= DRAWN // 4
    kept = frame[~frame["ok"] | (frame["stalls"] > 0) | slow].head(DRAWN // 2)
    others = frame.drop(index=kept.index)
    step = -(-len(others) // (DRAWN - len(kept)))
    return pd.concat([kept, others.iloc[::step]]).sort_values("start_s")


def _left_out(frame: pd.DataFrame, drawn: pd.DataFrame) -> str:
    more = len(frame) - len(drawn)
    return f" Of {len(frame):,} requests {len(drawn):,} are drawn, the slowest among them." if more else ""


def _spread(values: pd.Series) -> tuple[float, float]:
    """The limits of an axis on which the outermost marks are seen whole."""
    low, high = float(values.min()), float(values.max())
    pad = (high - low) * 0.02 or 0.5
    return low - pad, high + pad


def end_labels(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Names of lines at their right ends, apart from each other where the lines come close."""
    bottom, top = axes.get_ylim()
    log = axes.get_yscale() == "log"
    place = np.log10 if log else np.asarray
    low, high = (float(place(end)) for end in (bottom, top))
    room = (high - low) * 13 / (axes.bbox.height * 72 / mpl.rcParams["figure.dpi"])
    places, at = [], -np.inf
    for value, text, colour in sorted(labels):
        at = max(float(place(value)), at + room)
        places.append((at, text, colour))
    ceiling = high
    for at, text, colour in reversed(places):
        at = min(at, ceiling)
        ceiling = at - room
        axes.annotate(
            text, (1, 10**at if log else at), xytext=(5, 0), xycoords=("axes fraction", "data"), va="center",
            textcoords="offset points", color=colour, fontsize=8.5, annotation_clip=False,
        )  # fmt: skip


def _end_s(rate: pd.DataFrame) -> float:
    """The right edge of the last bin."""
    times = rate["t_s"].to_numpy()
    return float(2 * times[-1] - times[-2]) if len(times) > 1 else float(times[-1]) if len(times) else 0.0


def _request_name(index: int, phase: str) -> str:
    return f"request {index}" if phase == "run" else f"{'warm-up' if phase == 'warmup' else phase} {index}"


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
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), svg)  # a hundredth of a point is enough
    svg = re.sub(r'<g( clip-path="[^"]*")?>\s*((?:<use [^>]*?( style="[^"]*")/>\s*)+)</g>', _styled_once, svg)
    for colour, value in PALETTE.items():
        svg = re.sub(re.escape(value), f"var(--{colour}, {value})", svg, flags=re.IGNORECASE)
    label = html.escape(alt)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _styled_once(group: re.Match[str]) -> str:
    """Marks that look the same, with their looks said once."""
    styles = set(re.findall(r' style="[^"]*"', group[2]))
    if len(styles) > 1:
        return group[0]
    return f"<g{group[1] or ''}{group[3]}>{group[2].replace(group[3], '')}</g>"


def _side_by_side(*parts: Block) -> Block:
    return Block(f'<div class="plots">{"".join(part.html for part in parts)}</div>')
