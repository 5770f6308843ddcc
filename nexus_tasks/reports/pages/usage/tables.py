"""Tables of the page about usage: its top, users, models, refusals, waiting times.

tables.head(record)
tables.users(record)

Each takes a record of usage.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from nexus_tasks.accounting import totals
from nexus_tasks.accounting.totals import Total
from nexus_tasks.core.text import MISSING, moment, plural, span, whole
from nexus_tasks.records.store import UsageRecord
from nexus_tasks.reports.markup import Block, Cell, Column, Rows, fill, note, table
from nexus_tasks.reports.pages.usage import sentences

LISTED = 50
WORDS = {
    "400": "the request was not as it has to be", "401": "no key, or one that is not known",
    "403": "the user may not use the model, or nobody may do this", "404": "no such model or address",
    "405": "another method than POST", "408": "the request came too slowly", "413": "the request was too large",
    "415": "the request was compressed", "429": "over a limit of the user's", "500": "the server failed",
    "501": "the server does not do this", "502": "the server ended before it had answered",
    "503": "no server was up, or no slot was free in time", "504": "the server took too long",
}  # fmt: skip
TOKENS = (Column("Prompt", "tokens"), Column("From cache"), Column("Answers", "tokens"))


def head(record: UsageRecord) -> Block:
    """The top of the page: three sentences, and the numbers behind them."""
    total = _overall(record)
    since, until = (datetime.fromisoformat(text) for text in (record.header.since, record.header.until))
    tone = sentences.tone(record, total)
    return fill(
        "blocks/head.html",
        kicker=f"Usage · {moment(record.started_at)}",
        target=", ".join(record.header.gateways),
        title="Usage",
        subtitle=f"of {', '.join(record.header.gateways)}",
        subject=f"{moment(since)} to {moment(until)}",
        tone=tone,
        badge={"bad": "not whole", "muted": "nothing", "good": "ok"}[tone],
        sentences=sentences.opening(record, total),
        tiles=_tiles(total),
        since="",
    )


def lost(record: UsageRecord) -> Block:
    """The gateways that could not be asked; empty where all were."""
    if record.summary is None or not record.summary.lost:
        return Block("")
    rows: Rows = [[host, Cell(why, "bad")] for host, why in sorted(record.summary.lost.items())]
    return table([Column("Gateway", numeric=False), Column("Not asked, because", numeric=False)], rows)


def users(record: UsageRecord) -> Block:
    """Each user with what was used of which model."""
    return _by(
        record, ["user", "model"], "A user without a name sent no key that is known, or the gateway has no users."
    )


def models(record: UsageRecord) -> Block:
    """Each model."""
    return _by(record, ["model"], "A model without a name: the request was refused before it was known.")


def days(record: UsageRecord) -> Block:
    """Each day, where there are several."""
    if len({totals.key_of(row, "day") for row in record.rows}) < 2:
        return Block("")
    return _by(record, ["day"], "Days are those of UTC.")


def refusals(record: UsageRecord) -> Block:
    """Refused and failed requests, by status and user."""
    counts: dict[tuple[str, str], int] = {}
    for row in record.rows:
        for status, count in row.errors.items():
            counts[status, row.user] = counts.get((status, row.user), 0) + count
    if not counts:
        return note("No request was refused, and none failed.", "good")
    columns = [
        Column("Status"), Column("Meaning", numeric=False), Column("User", numeric=False), Column("Requests"),
    ]  # fmt: skip
    rows: Rows = [
        [
            Cell(status, "bad" if status.startswith("5") else ""),
            WORDS.get(status, MISSING),
            sentences.named("user", user),
            f"{count:,}",
        ]
        for (status, user), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:LISTED]
    ]
    return table(columns, rows)


def waiting(record: UsageRecord) -> Block:
    """The time that requests waited at the gateway for a free slot, and that to the first token, by model."""
    found = [total for total in totals.by(record.rows, ["model"], record.header.bounds_ms) if total.waited]
    if not found:
        return note("No request came to a server.")
    columns = [
        Column("Model", numeric=False), Column("Requests"), Column("Mean wait"), Column("Wait, half"),
        Column("95 %"), Column("99 %"), Column("First token, half"), Column("95 %"),
    ]  # fmt: skip
    rows: Rows = [
        [
            sentences.named("model", total.of["model"]),
            f"{total.waited:,}",
            span(total.queue_ms_sum / total.waited),
            *(_at_most(total.queue_at_most_ms(percent)) for percent in (50, 95, 99)),
            *(_at_most(total.ttft_at_most_ms(percent)) for percent in (50, 95)),
        ]
        for total in found[:LISTED]
    ]
    return table(
        columns,
        rows,
        "So many of the requests waited at most as long for a free slot, as exact as the log is added up. The time to "
        "the first token is from the first byte of the request, waiting included; of an answer that is no stream it is "
        "that to the answer.",
    )


def footer(record: UsageRecord) -> Block:
    """The foot: where the numbers come from."""
    return fill("blocks/footer.html", run_id=record.run_id, kind=record.header.kind)


def _overall(record: UsageRecord) -> Total:
    return totals.overall(record.rows, record.header.bounds_ms)


def _by(record: UsageRecord, keys: list[str], caption: str) -> Block:
    found = totals.by(record.rows, keys, record.header.bounds_ms)
    if not found:
        return note("There was no request.")
    columns = [
        *(Column(key.capitalize(), numeric=False) for key in keys), Column("Requests"), Column("Answered"),
        Column("Refused"), Column("Failed"), *TOKENS,
    ]  # fmt: skip
    rows: Rows = [
        [
            *(sentences.named(key, total.of[key]) for key in keys),
            f"{total.requests:,}",
            f"{total.answered:,}",
            f"{total.refused:,}",
            Cell(f"{total.failed:,}", "bad" if total.failed else ""),
            *_tokens(total),
        ]
        for total in found[:LISTED]
    ]
    more = f" {len(found) - LISTED:,} more are not listed." if len(found) > LISTED else ""
    least = " At least: some answers were not seen to their end." if any(total.partial for total in found) else ""
    return table(columns, rows, f"{caption}{least}{more}")


def _tokens(total: Total) -> list[Cell | str]:
    detail = f"of {total.partial:,} at least" if total.partial else ""
    share = total.cached_share
    return [
        f"{total.prompt_tokens:,}",
        MISSING if share is None else f"{share:.0%}",
        Cell(f"{total.completion_tokens:,}", detail=detail),
    ]


def _at_most(at_most_ms: float | None) -> str:
    if at_most_ms is None:
        return MISSING
    return "longer" if math.isinf(at_most_ms) else f"≤ {span(at_most_ms)}"


def _tiles(total: Total) -> list[dict[str, Any]]:
    if not total.requests:
        return []
    share = total.cached_share
    cached = "" if share is None else f"{share:.0%} from the cache"
    least = (
        f"at least; {plural(total.partial, 'answer')} not seen to the end" if total.partial else "as the servers count"
    )
    return [
        _tile("Requests", whole(total.requests), "", f"{total.answered:,} answered, {total.streams:,} streams"),
        _tile("Prompts", whole(total.prompt_tokens), "tokens", cached),
        _tile("Answers", whole(total.completion_tokens), "tokens", least),
        _tile("Refused", whole(total.refused), "", f"{total.failed:,} failed"),
    ]


def _tile(label: str, value: str, unit: str, detail: str) -> dict[str, Any]:
    return {"label": label, "value": value, "unit": unit, "detail": detail, "change": None}
