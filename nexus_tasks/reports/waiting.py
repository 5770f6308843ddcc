"""Figure of the wait for a first token: the client's time to it beside the server's own prefill.

waiting.before_first_token(record)
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from nexus_tasks.core.text import span
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import frames
from nexus_tasks.reports.drawing import (
    BLUE,
    GRID,
    ORANGE,
    WIDE_IN,
    block,
    drawing,
    end_labels,
    left_out,
    spread,
    thinned,
)
from nexus_tasks.reports.markup import Block, note
from nexus_tasks.views import runs


def before_first_token(record: BenchmarkRecord) -> Block:
    """The client's time to first token beside the server's own prefill; what is between is no work on the prompt."""
    frame = frames.counted(frames.requests(record)).dropna(subset=["ttft_ms", "server_prompt_ms"])
    if frame.empty:
        return note("There is no first token of which the server says how long its prefill took.")
    names = runs.level_names(record)
    if len(set(names.values())) > 1:
        return _by_level(record, frame.assign(level=frame["stage"].map(names)))
    drawn = thinned(frame, "ttft_ms")
    with drawing(WIDE_IN, 2.7) as figure:
        axes = figure.subplots()
        gaps = np.full(len(drawn), np.nan)  # one path with breaks: a line each would make a page of megabytes
        ends = np.column_stack([drawn["server_prompt_ms"], drawn["ttft_ms"], gaps]).ravel()
        axes.plot(np.repeat(drawn["start_s"], 3), ends, color=GRID, linewidth=0.8)
        axes.plot(drawn["start_s"], drawn["ttft_ms"], "o", color=BLUE, markersize=3.5)
        axes.plot(drawn["start_s"], drawn["server_prompt_ms"], "D", color=ORANGE, markersize=3)
        axes.set_ylim(0, float(drawn["ttft_ms"].max()) * 1.1)
        axes.set_xlim(*spread(drawn["start_s"]))
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
            caption="The grey line between the two is queue, chat template and network." + left_out(frame, drawn),
        )


def _by_level(record: BenchmarkRecord, frame: pd.DataFrame) -> Block:
    order = [name for row in runs.stages(record) if (name := runs.level_name(row)) in set(frame["level"])]
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
