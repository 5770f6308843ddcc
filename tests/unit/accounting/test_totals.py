from __future__ import annotations

import json

import pytest

from nexus_tasks.accounting import totals
from nexus_tasks.core.errors import UsageError
from plugins.module_utils.gateway.usage_sums import BOUNDS_MS
from tests.usage_records import REFUSED, bins, row

ROWS = [
    row(), row(hour="2026-11-30T10"), row(user="bob", completion_tokens=500, partial=1),
    row(hour="2026-12-01T00", model="big"), row(user="", model="", **REFUSED),
]  # fmt: skip


def test_rows_are_added_up_by_user_and_model_those_with_most_tokens_first() -> None:
    found = totals.by(ROWS, ["user", "model"], BOUNDS_MS)
    assert [(*total.of.values(), total.requests, total.tokens) for total in found] == [
        ("bob", "tiny", 2, 540), ("alice", "tiny", 4, 120), ("alice", "big", 2, 60), ("", "", 3, 0),
    ]  # fmt: skip


def test_days_come_in_their_order() -> None:
    found = totals.by(ROWS, ["day", "user"], BOUNDS_MS)
    assert [tuple(total.of.values()) for total in found] == [
        ("2026-11-30", "bob"), ("2026-11-30", "alice"), ("2026-11-30", ""), ("2026-12-01", "alice"),
    ]  # fmt: skip


def test_all_together_is_the_sum_of_its_parts() -> None:
    total = totals.overall(ROWS, BOUNDS_MS)
    assert (total.requests, total.answered, total.refused, total.failed, total.partial) == (11, 8, 2, 1, 1)
    assert total.cached_share == 0.25
    assert totals.overall([], BOUNDS_MS).requests == 0


def test_waiting_times_are_told_by_the_bound_of_their_bin() -> None:
    total = totals.overall([row(queue_ms=bins(_0=90, _500=8, more=2))], BOUNDS_MS)
    assert [total.queue_at_most_ms(percent) for percent in (50, 90, 95, 98)] == [0, 0, 500, 500]
    assert total.queue_at_most_ms(99) == float("inf")
    assert totals.overall([row(queue_ms=bins())], BOUNDS_MS).queue_at_most_ms(50) is None


def test_programs_get_json_without_infinities() -> None:
    (told,) = [total.as_json() for total in totals.by([row(queue_ms=bins(more=1))], ["user"], BOUNDS_MS)]
    assert told["user"] == "alice"
    assert told["queue_ms_p95"] is None
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize("text", ["", ",", "who", "user,price"])
def test_keys_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        totals.keys_of(text)
    assert "user, model, gateway, day, hour" in refused.value.hint


def test_keys_are_named_with_commas() -> None:
    assert totals.keys_of("user, model,user") == ["user", "model"]
