"""Usage out of the log of a gateway's requests: sums by hour, user and model.

sums = UsageSums()
sums.add(line)                         # a line of the log, as bytes
sums.rows()                            # [{"hour": "2026-11-30T09", "user": "alice", "model": "tiny", "requests": 3, …}]
sums.damaged                           # lines that are none

Tokens are the servers' own counts. Where an answer was not seen to its end they are a lower bound, and it counts among
``partial``; an answer to which the server told no count is among ``uncounted``, and adds no tokens.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

WHOLE, PART = "whole", "part"
BOUNDS_MS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 60000, 120000, 300000, 600000)
"""Upper bounds of the bins of waiting times; the last bin has what is beyond."""

OK = range(200, 300)
LAST_MOMENT = 4_102_444_800  # the year 2100: a line of a later one was not written by a clock
# What servers tell without any tokens of a model.
FREE = frozenset((
    "/tokenize", "/detokenize", "/apply-template", "/v1/chat/completions/input_tokens",
    "/chat/completions/input_tokens", "/v1/responses/input_tokens", "/responses/input_tokens",
    "/v1/messages/count_tokens",
))  # fmt: skip
TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens")

Row = dict[str, Any]


def parsed(line: bytes) -> Row | None:
    """A line of the log; None for one that is none."""
    try:
        row = json.loads(line)
        is_one = isinstance(row["time"], (int, float)) and isinstance(row["status"], int)
        return row if is_one and 0 <= row["time"] <= LAST_MOMENT else None
    except (ValueError, KeyError, TypeError):
        return None


def name_of(row: Row, key: str) -> str:
    """A name in a line, as that of its user; empty where it is not known, for which HAProxy writes a hyphen."""
    name = row.get(key)
    return "" if name in (None, "-") else str(name)


def tokens_of(row: Row) -> int:
    """The tokens that count against a user's limit: those of the prompt, from the cache or not, and of the answer."""
    return int(row.get("prompt_tokens") or 0) + int(row.get("completion_tokens") or 0)


class UsageSums:
    """Sums over lines of the log."""

    def __init__(self, since: float = 0.0, until: float = float("inf")) -> None:
        self.since, self.until = since, until
        self.damaged = 0
        self._sums: dict[tuple[str, str, str], Row] = {}

    def add(self, line: bytes) -> None:
        """Add a line; one that is none counts as damaged, one of another time not at all."""
        row = parsed(line)
        if row is None:
            self.damaged += 1
        elif self.since <= row["time"] < self.until:
            self._add(row)

    def _add(self, row: Row) -> None:
        hour = datetime.fromtimestamp(row["time"], timezone.utc).strftime("%Y-%m-%dT%H")
        key = (hour, name_of(row, "user"), name_of(row, "model"))
        into = self._sums.get(key)
        if into is None:
            into = self._sums[key] = _nothing()
        status, usage = row["status"], row.get("usage")
        into["requests"] += 1
        into["streams"] += 1 if row.get("stream") else 0
        by_server = not str(row.get("server") or "<").startswith("<")  # <NOSRV> and <lua.…> are the gateway itself
        if status in OK:
            into["answered"] += 1
            into["partial"] += usage == PART
            into["uncounted"] += by_server and usage not in (WHOLE, PART) and row.get("path") not in FREE
        else:
            into["errors"][str(status)] = into["errors"].get(str(status), 0) + 1
        for name in (*TOKENS, "bytes"):
            into[name] += int(row.get(name) or 0)
        if by_server:
            _bin(into["queue_ms"], row.get("queue_ms"))
            into["queue_ms_sum"] += max(row.get("queue_ms") or 0, 0)
        _bin(into["ttft_ms"], row.get("ttft_ms"))

    def rows(self) -> list[Row]:
        """The sums by hour, user and model; those of a user or a model that is not known have an empty name."""
        return [
            {"hour": hour, "user": user, "model": model, **row}
            for (hour, user, model), row in sorted(self._sums.items())
        ]


def _nothing() -> Row:
    return {
        "requests": 0, "streams": 0, "answered": 0, "partial": 0, "uncounted": 0, "errors": {}, "prompt_tokens": 0,
        "cached_tokens": 0, "completion_tokens": 0, "bytes": 0, "queue_ms": [0] * (len(BOUNDS_MS) + 1),
        "queue_ms_sum": 0, "ttft_ms": [0] * (len(BOUNDS_MS) + 1),
    }  # fmt: skip


def _bin(bins: list[int], value_ms: Any) -> None:
    if not isinstance(value_ms, (int, float)) or value_ms < 0:
        return
    place = next((at for at, bound in enumerate(BOUNDS_MS) if value_ms <= bound), len(BOUNDS_MS))
    bins[place] += 1
