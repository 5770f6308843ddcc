"""Figures of the page about usage: tokens over time, and how long requests waited.

figures.over_time(record)
figures.waiting(record)
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import matplotlib.dates as mdates
import numpy as np

from nexus_tasks.accounting import totals
from nexus_tasks.core.text import span
from nexus_tasks.records.store import UsageRecord
from nexus_tasks.records.usage_rows import UsageRow
from nexus_tasks.reports.drawing import BLUE, INK, SERIES, WIDE_IN, block, drawing, legend_above
from nexus_tasks.reports.markup import Block, note
from nexus_tasks.reports.pages.usage.sentences import named

MOST_BARS = 72  # hours: more, and a bar is a day
OTHERS = "others"


def over_time(record: UsageRecord) -> Block:
    """Tokens and requests by hour, or by day where there are many hours; colours are users."""
    if not record.rows:
        return note("There was no request, so there is nothing to draw.")
    hours = sorted({row.hour for row in record.rows})
    first, last = (_hour(hours[place]) for place in (0, -1))
    step = timedelta(hours=1) if (last - first) / timedelta(hours=1) < MOST_BARS else timedelta(days=1)
    begin = first if step < timedelta(days=1) else first.replace(hour=0)
    count = int((last - begin) / step) + 1
    starts = [begin + number * step for number in range(count)]
    users = _ranked(record)
    tokens = {user: np.zeros(count) for user in users}
    requests = np.zeros(count)
    for row in record.rows:
        place = int((_hour(row.hour) - begin) / step)
        user = row.user if row.user in tokens else OTHERS
        tokens[user][place] += row.prompt_tokens + row.completion_tokens
        requests[place] += row.requests
    with drawing(WIDE_IN, 3.6) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
        edges = mdates.date2num([*starts, starts[-1] + step])  # type: ignore[no-untyped-call]  # untyped in matplotlib
        base = np.zeros(count)
        for user, colour in zip(users, SERIES, strict=False):
            above.stairs(
                base + tokens[user], edges, baseline=base, fill=True, alpha=0.6, color=colour, linewidth=0,
                label=named("user", user),
            )  # fmt: skip
            base = base + tokens[user]
        above.set_title(f"Tokens by {'hour' if step < timedelta(days=1) else 'day'}")
        below.stairs(requests, edges, fill=True, alpha=0.6, color=INK, linewidth=0)
        below.set_title("Requests")
        for axes in (above, below):
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter("{x:,.6g}")
        locator = mdates.AutoDateLocator()  # type: ignore[no-untyped-call]  # untyped in matplotlib
        below.xaxis.set_major_locator(locator)
        below.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]  # as above
        if len(users) > 1:
            legend_above(figure, above)
        return block(
            figure,
            "usage-over-time",
            alt=f"Tokens over {count} steps: {base.sum():,.0f} in all, {base.max():,.0f} at most.",
            caption="Tokens of prompts, those from the cache among them, and of answers; times are in UTC.",
        )


def waiting(record: UsageRecord) -> Block:
    """Waiting for a free slot: the share of requests that waited at most so long."""
    total = totals.overall(record.rows, record.header.bounds_ms)
    if not total.waited:
        return note("No request came to a server, so none waited.")
    bounds = record.header.bounds_ms
    counts = np.asarray([total.queue_ms[place] for place in range(len(bounds) + 1)], dtype=np.float64)
    shares = np.cumsum(counts) / counts.sum() * 100
    with drawing(WIDE_IN, 2.2) as figure:
        axes = figure.subplots()
        places = np.arange(len(bounds))
        axes.step(places, shares[: len(bounds)], where="post", color=BLUE)
        axes.set_ylim(0, 103)
        axes.set_xticks(places, [span(float(bound)) for bound in bounds], rotation=45, ha="right")
        axes.set_title("Requests that waited at most so long for a free slot, %")
        return block(
            figure,
            "usage-waiting",
            alt=f"{shares[0]:.0f} % of {total.waited:,} requests did not wait for a free slot.",
            caption="Of the requests that came to a server, whether it answered or not.",
        )


def _hour(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H").replace(tzinfo=UTC)


def _ranked(record: UsageRecord) -> list[str]:
    """The users with most tokens; beyond the colours that there are, one name for the rest."""
    sums: dict[str, int] = {}
    for row in record.rows:
        sums[row.user] = sums.get(row.user, 0) + _tokens(row)
    users = sorted(sums, key=lambda user: (-sums[user], user))
    return users if len(users) <= len(SERIES) else [*users[: len(SERIES) - 1], OTHERS]


def _tokens(row: UsageRow) -> int:
    return row.prompt_tokens + row.completion_tokens
