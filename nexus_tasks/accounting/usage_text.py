"""Usage for people: a table of 80 columns, and what has to be known of it.

for line in usage_text.lines(usage, ["user", "model"], width=80):
    print(line)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from nexus_tasks.accounting import totals
from nexus_tasks.accounting.collecting import Usage
from nexus_tasks.accounting.totals import Total
from nexus_tasks.core.text import MISSING, moment, plural
from nexus_tasks.hostlib.terminal_text import columns, plain, shortened

NO_NAME = {"user": "(nobody)", "model": "(none)"}
LONGEST_NAME = 28
FIGURES = ("REQUESTS", "ERRORS", "PROMPT", "CACHED", "ANSWER", "WAITED")
MANY = 10_000_000  # more tokens than this are told in millions


def lines(usage: Usage, keys: Sequence[str], width: int) -> list[str]:
    """The table by some keys, the total, and notes."""
    rows = totals.by(usage.rows, keys, usage.bounds_ms)
    title = f"{moment(usage.since)} to {moment(usage.until)}, {', '.join(usage.gateways)}"
    if not rows:
        return [title, "no request"]
    total = totals.overall(usage.rows, usage.bounds_ms)
    header = (*(key.upper() for key in keys), *FIGURES)
    cells = [header, *(_cells(row, keys) for row in rows)]
    if len(rows) > 1:
        cells.append(_cells(total, keys, first="all"))
    right = range(len(keys), len(header))
    return [title, *(shortened(line, width) for line in columns(cells, right=right)), *_notes(usage, total)]


def name(key: str, value: str) -> str:
    """A user, model, gateway, day or hour, as a reader has it."""
    return shortened(plain(value), LONGEST_NAME) if value else NO_NAME.get(key, MISSING)


def _cells(row: Total, keys: Sequence[str], first: str = "") -> tuple[str, ...]:
    named = [name(key, row.of[key]) for key in keys] if row.of else [first, *[""] * (len(keys) - 1)]
    least = "≥" if row.partial else ""
    return (
        *named,
        f"{row.requests:,}",
        f"{row.refused + row.failed:,}",
        f"{least}{amount(row.prompt_tokens)}",
        MISSING if row.cached_share is None else f"{row.cached_share:.0%}",
        f"{least}{amount(row.completion_tokens)}",
        waited(row.queue_at_most_ms(95)),
    )


def amount(tokens: int) -> str:
    """A number of tokens."""
    return f"{tokens:,}" if tokens < MANY else f"{tokens / 1e6:,.1f}M"


def waited(at_most_ms: float | None) -> str:
    """A time that was waited at most."""
    if at_most_ms is None:
        return MISSING
    if math.isinf(at_most_ms):
        return "longer"
    return f"{at_most_ms:.0f} ms" if at_most_ms < 1000 else f"{at_most_ms / 1000:.0f} s"


def _notes(usage: Usage, total: Total) -> list[str]:
    notes = [
        "WAITED: 95 % of the requests waited at most as long for a free slot; in UTC, tokens as the servers count them."
    ]
    if total.partial:
        notes.append(f"≥: of {plural(total.partial, 'answer')} that was not seen to its end, tokens are a lower bound.")
    if total.uncounted:
        notes.append(f"To {plural(total.uncounted, 'answer')} the servers told no count of tokens.")
    if usage.damaged:
        notes.append(f"{plural(usage.damaged, 'line')} of the logs could not be read.")
    return notes
