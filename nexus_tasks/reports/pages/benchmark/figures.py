"""Figures of a benchmark's page: distributions, turns of conversations, requests one by one, client against server.

figures.latencies(record)
figures.breakdown(record)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from nexus_tasks.core.text import number, percent, span
from nexus_tasks.records.benchmark_rows import Figures
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import frames
from nexus_tasks.reports.distributions import distribution
from nexus_tasks.reports.drawing import (
    BAD,
    BLUE,
    GREEN,
    INK,
    LABELLED_ROWS,
    ORANGE,
    WIDE_IN,
    block,
    drawing,
    left_out,
    side_by_side,
    spread,
    thinned,
)
from nexus_tasks.reports.frames import Floats
from nexus_tasks.reports.markup import Block, note
from nexus_tasks.stats.metrics import ITL, TOTAL, TTFT, Metric, parse
from nexus_tasks.views import runs


def latencies(record: BenchmarkRecord) -> Block:
    """TTFT and inter-token latency side by side, of answers without tokens the whole request: points where there are
    few, else their distribution, with the SLOs of the run."""
    requests = frames.counted(frames.requests(record))
    measured, slo = runs.metrics(record), record.header.load.slo
    if "ttft_ms" not in measured and "total_ms" in measured:
        total = requests["total_ms"].to_numpy()
        limits = _limits(slo, "total_ms")
        return side_by_side(_distribution("total", TOTAL, total, measured["total_ms"], limits))
    first, gaps = requests["ttft_ms"].dropna().to_numpy(), frames.inter_token_ms(record)
    return side_by_side(
        _distribution("ttft", TTFT, first, measured.get("ttft_ms"), _limits(slo, "ttft_ms")),
        _distribution("itl", ITL, gaps, measured.get("itl_ms"), _limits(slo, "itl_ms")),
    )


def cache(record: BenchmarkRecord) -> Block:
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


def breakdown(record: BenchmarkRecord) -> Block:
    """A bar a request of what its time went into: the wait for the first token, decoding, the rest; of many, a mark
    each for when it was sent and how long it took."""
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
    """Durations of requests by the time they were sent: a mark each, those that failed or stalled in their own."""
    shown = frame.dropna(subset=["total_ms"])
    if shown.empty:
        return note("No request got as far as an answer, so there is no time to show.", "bad")
    drawn = thinned(shown, "total_ms")
    kinds = (
        ("warm-up or ramp", drawn[drawn["ok"] & (drawn["phase"] != "run")], "o", INK, "none"),
        ("counted", drawn[drawn["ok"] & (drawn["phase"] == "run")], "o", BLUE, BLUE),
        ("with a stall", drawn[drawn["ok"] & (drawn["stalls"] > 0)], "D", ORANGE, ORANGE),
        ("failed", drawn[~drawn["ok"]], "X", BAD, BAD),
    )
    with drawing(WIDE_IN, 2.8) as figure:
        axes = figure.subplots()
        drawn_kinds = []
        for label, rows, marker, colour, face in kinds:
            if len(rows):
                large = 3.2 if marker == "o" else 6
                axes.plot(rows["start_s"], rows["total_ms"] / 1000, marker, color=colour, markerfacecolor=face,
                          markersize=large, markeredgewidth=0.8, linestyle="none", label=label)  # fmt: skip
                drawn_kinds.append(f"{len(rows)} {label}")
        axes.set_ylim(0, float(drawn["total_ms"].max()) / 1000 * 1.08)
        axes.set_xlim(*spread(drawn["start_s"]))
        axes.set_xlabel("seconds since the run began, when the request was sent")
        axes.set_title("Whole request, s")
        axes.legend(
            loc="lower right", ncols=len(drawn_kinds), bbox_to_anchor=(1, 1), borderaxespad=0, handletextpad=0.1
        )
        return block(
            figure,
            "breakdown",
            alt=f"Durations of {len(shown)} requests ({', '.join(drawn_kinds)} drawn), "
            f"up to {span(shown['total_ms'].max())}.",
            caption="One mark a request; none is dropped for being slow." + left_out(shown, drawn),
        )


def agreement(record: BenchmarkRecord, limit_percent: float) -> Block:
    """The difference between the client's decode time of each request and the server's own."""
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


def _limits(slo: Mapping[str, float], metric: str) -> list[tuple[str, float]]:
    """The SLOs that bound a metric, as labels and values."""
    return [("SLO", limit) for name, limit in slo.items() if parse(name)[0].key == metric]


def _distribution(
    name: str, metric: Metric, values: Floats, stats: Figures | None, limits: Sequence[tuple[str, float]] = ()
) -> Block:
    marks = [("median", "median"), *((p, p) for p in ("p95", "p99"))]
    known = [(label, value, ORANGE) for label, key in marks if (value := runs.figure(stats, key)) is not None]
    return distribution(
        name, metric.title, metric.unit, values, known + [(label, limit, BAD) for label, limit in limits]
    )


def _request_name(index: int, phase: str) -> str:
    return f"request {index}" if phase == "run" else f"{'warm-up' if phase == 'warmup' else phase} {index}"
