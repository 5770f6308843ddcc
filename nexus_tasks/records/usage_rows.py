"""Rows of the record of usage, schema 1; docs/records.md says what each key means.

As in :mod:`nexus_tasks.records.benchmark_rows`, a field with a default may be missing in a file.
"""

from __future__ import annotations

from nexus_tasks.records.benchmark_rows import Header, Machine, Part


class UsageHeader(Header, kw_only=True, tag_field="type", tag="header"):
    """The first row: of which gateways, and of which time. ``bounds_ms`` are the upper bounds of bins of times.

    ``since`` and ``until`` are moments in UTC, ISO 8601; the last bin has what is beyond its bounds.
    """

    gateways: list[str]
    since: str
    until: str
    bounds_ms: list[int]
    client: Machine


class UsageRow(Part, kw_only=True, tag_field="type", tag="usage"):
    """Sums of one gateway, hour (UTC, ``2026-11-30T09``), user and model; names are empty where they are not known.

    Of the ``requests``, ``answered`` got their answer, the others have their ``errors`` by status. Tokens are the
    servers' own counts; of ``partial`` answers they are a lower bound, and ``uncounted`` ones are not among them.
    ``queue_ms`` and ``ttft_ms`` are counts by bins.
    """

    gateway: str
    hour: str
    user: str
    model: str
    requests: int
    streams: int
    answered: int
    partial: int
    uncounted: int
    errors: dict[str, int]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    bytes: int
    queue_ms: list[int]
    queue_ms_sum: int
    ttft_ms: list[int]


class UsageSummary(Part, kw_only=True, tag_field="type", tag="summary"):
    """The last row: sums over all, ``damaged`` lines of the logs, and why a gateway could not be asked."""

    finished_at: str = ""
    requests: int
    answered: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    damaged: int
    lost: dict[str, str]
