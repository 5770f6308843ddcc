"""Sentences that open the page about usage: how much and by whom, from the cache or not, what was refused.

sentences.opening(record, total)     ["12 requests of 2 users, …", "…", "…"]
"""

from __future__ import annotations

import math

from nexus_tasks.accounting import totals
from nexus_tasks.accounting.totals import Total
from nexus_tasks.core.text import listing, plural, sentence, span
from nexus_tasks.records.store import UsageRecord

NAMED = 3
NO_NAME = {"user": "nobody known", "model": "no model"}


def tone(record: UsageRecord, total: Total) -> str:
    """``bad`` where something is not among the numbers, ``muted`` where there was nothing, else ``good``."""
    if record.summary is None or record.summary.lost or record.summary.damaged:
        return "bad"
    return "good" if total.requests else "muted"


def opening(record: UsageRecord, total: Total) -> list[str]:
    """Use, and by whom; waiting; refusals, and what is not whole."""
    if not total.requests:
        return ["There was no request.", *_gaps(record, total)]
    return [_used(record, total), _waited(total), *_gaps(record, total)]


def named(key: str, value: str) -> str:
    """The name of a user or a model for readers."""
    return value or NO_NAME.get(key, value)


def _used(record: UsageRecord, total: Total) -> str:
    found = [one for one in totals.by(record.rows, ["user"], record.header.bounds_ms) if one.tokens]
    first = f"{plural(total.requests, 'request')}, {total.tokens:,} tokens"
    if len(found) < 2:
        return f"{first}."
    shares = [f"{named('user', one.of['user'])} ({one.tokens / total.tokens:.0%})" for one in found[:NAMED]]
    return f"{first} by {plural(len(found), 'user')}, most of them by {listing(shares)}."


def _waited(total: Total) -> str:
    at_most = total.queue_at_most_ms(95)
    share = total.cached_share
    clauses = [] if share is None else [f"{share:.0%} of the prompts' tokens came from the cache"]
    if at_most is not None:
        long = "longer than the log tells apart" if math.isinf(at_most) else f"{span(at_most)} at most"
        clauses.append(f"95 % of the requests waited {long} for a free slot")
    return sentence(clauses)


def _gaps(record: UsageRecord, total: Total) -> list[str]:
    summary = record.summary
    clauses = [
        f"{plural(total.refused, 'request')} refused" if total.refused else "",
        f"{plural(total.failed, 'request')} failed" if total.failed else "",
        f"of {plural(total.partial, 'answer')} the tokens are a lower bound" if total.partial else "",
        f"{plural(total.uncounted, 'answer')} without a count" if total.uncounted else "",
    ]
    if summary is None:
        clauses.append("the record was cut off while it was written")
    else:
        clauses.append(f"{plural(summary.damaged, 'line')} of the logs could not be read" if summary.damaged else "")
        clauses.append(f"{plural(len(summary.lost), 'gateway')} could not be asked" if summary.lost else "")
    return [told] if (told := sentence(clauses)) else []
