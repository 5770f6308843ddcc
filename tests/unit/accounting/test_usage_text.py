from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from nexus_tasks.accounting import usage_text
from nexus_tasks.accounting.collecting import Usage
from nexus_tasks.core.text import MISSING
from nexus_tasks.records.usage_rows import UsageRow
from plugins.module_utils.gateway.usage_sums import BOUNDS_MS
from tests.usage_records import REFUSED, bins, row


def usage(*rows: UsageRow, **values: Any) -> Usage:
    since, until = datetime(2026, 11, 30, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
    return Usage("gateways", since, until, ["gw-1"], list(rows), list(BOUNDS_MS), **{"damaged": 0, **values})


def test_usage_is_a_table_with_a_total() -> None:
    told = usage(row(), row(user="bob", model="big", queue_ms=bins(_2000=1)), row(user="", model="", **REFUSED))
    assert usage_text.lines(told, ["user", "model"], 80)[:5] == [
        "2026-11-30 00:00 UTC to 2026-12-01 00:00 UTC, gw-1",
        "USER      MODEL   REQUESTS  ERRORS  PROMPT  CACHED  ANSWER  WAITED",
        "alice     tiny           2       0      40     25%      20    0 ms",
        "bob       big            2       0      40     25%      20     2 s",
        f"(nobody)  (none)         3       3       0       {MISSING}       0       {MISSING}",
    ]
    assert usage_text.lines(told, ["user", "model"], 80)[5].startswith("all ")


def test_lower_bounds_missing_counts_and_damage_are_told() -> None:
    told = usage(row(partial=1, uncounted=2), damaged=3)
    text = "\n".join(usage_text.lines(told, ["user"], 80))
    assert "≥20" in text
    assert "of 1 answer that was not seen to its end, tokens are a lower bound" in text
    assert "To 2 answers the servers told no count" in text
    assert "3 lines of the logs could not be read" in text


def test_no_request_is_said() -> None:
    assert usage_text.lines(usage(), ["user"], 80)[1:] == ["no request"]


def test_names_of_others_do_nothing_to_a_terminal_and_have_room() -> None:
    (_, _, line, *_) = usage_text.lines(usage(row(model="\x1b[31m" + "m" * 99)), ["user", "model"], 200)
    assert "\x1b" not in line
    assert "m" * 27 + "…" in line
