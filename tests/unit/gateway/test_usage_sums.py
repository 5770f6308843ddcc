from __future__ import annotations

import json
from typing import Any

import pytest

from plugins.module_utils.gateway.usage_sums import BOUNDS_MS, UsageSums

NOON = 1796040000.0  # 2026-11-30T12:00:00Z
ANSWERED = {
    "time": NOON, "user": "alice", "model": "tiny", "server": "rig-1_main", "status": 200, "queue_ms": 3, "ttft_ms": 40,
    "stream": 1, "prompt_tokens": 20, "cached_tokens": 5, "completion_tokens": 7, "usage": "whole", "bytes": 900,
}  # fmt: skip


def sums(*rows: dict[str, Any], **window: float) -> UsageSums:
    made = UsageSums(**window)
    for row in rows:
        made.add(json.dumps(row).encode())
    return made


def test_usage_is_added_up_by_hour_user_and_model() -> None:
    rows = sums(
        ANSWERED, ANSWERED, {**ANSWERED, "user": "bob"}, {**ANSWERED, "time": NOON + 3600}, {**ANSWERED, "model": "big"}
    ).rows()
    assert [(row["hour"], row["user"], row["model"], row["requests"]) for row in rows] == [
        ("2026-11-30T12", "alice", "big", 1), ("2026-11-30T12", "alice", "tiny", 2),
        ("2026-11-30T12", "bob", "tiny", 1), ("2026-11-30T13", "alice", "tiny", 1),
    ]  # fmt: skip
    assert {name: rows[1][name] for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "bytes")} == {
        "prompt_tokens": 40, "cached_tokens": 10, "completion_tokens": 14, "bytes": 1800,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("usage", "counted"), [("whole", (1, 0, 0)), ("part", (1, 1, 0)), ("none", (1, 0, 1)), (None, (1, 0, 1))]
)
def test_answers_with_a_lower_bound_and_those_without_a_count_are_told(usage: Any, counted: tuple[int, ...]) -> None:
    (row,) = sums({**ANSWERED, "usage": usage}).rows()
    assert (row["answered"], row["partial"], row["uncounted"]) == counted


def test_refusals_are_counted_by_status_and_waited_for_no_server() -> None:
    refused = {**ANSWERED, "status": 429, "server": "<NOSRV>", "usage": "none", "prompt_tokens": 0}
    (row,) = sums(refused, refused, {**refused, "status": 401}).rows()
    assert row["errors"] == {"429": 2, "401": 1}
    assert row["answered"] == 0
    assert sum(row["queue_ms"]) == 0


@pytest.mark.parametrize("server", ["<NOSRV>", "<lua.models_of_user>"])
def test_what_the_gateway_answers_itself_has_no_count_to_miss(server: str) -> None:
    (row,) = sums({**ANSWERED, "server": server, "usage": "-", "prompt_tokens": 0, "completion_tokens": 0}).rows()
    assert (row["answered"], row["uncounted"], sum(row["queue_ms"])) == (1, 0, 0)


def test_waiting_times_are_told_in_bins() -> None:
    (row,) = sums(ANSWERED, {**ANSWERED, "queue_ms": 10_000_000, "ttft_ms": -1}).rows()
    assert row["queue_ms"][BOUNDS_MS.index(5)] == row["queue_ms"][-1] == 1
    assert sum(row["ttft_ms"]) == 1
    assert row["queue_ms_sum"] == 10_000_003


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"time": "now", "status": 200}', '{"status": 200}', "null", '{"time": 1}']
)
def test_a_line_that_is_none_is_counted_as_damaged(text: str) -> None:
    made = UsageSums()
    made.add(text.encode())
    assert (made.damaged, made.rows()) == (1, [])


def test_what_was_before_or_after_is_left_out() -> None:
    made = sums({**ANSWERED, "time": NOON - 1}, ANSWERED, {**ANSWERED, "time": NOON + 9}, since=NOON, until=NOON + 9)
    assert [row["requests"] for row in made.rows()] == [1]


@pytest.mark.parametrize("moment", ["1e300", "-1", "NaN", "Infinity", "5e9"])
def test_a_line_of_no_time_is_damaged(moment: str) -> None:
    found = UsageSums()
    found.add(f'{{"time": {moment}, "status": 200}}'.encode())
    assert (found.damaged, found.rows()) == (1, [])


def test_what_takes_no_tokens_has_no_count_to_miss() -> None:
    rows = [{**ANSWERED, "usage": "-", "path": path} for path in ("/tokenize", "/embedding")]
    assert [row["uncounted"] for row in sums(*rows).rows()] == [1]
