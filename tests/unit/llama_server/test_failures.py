"""Failures of instances, in words for people."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.module_utils.llama_server.failures import failure_message

ROW: dict[str, Any] = {"name": "main", "state": "failed", "changed": True, "error": "slots: expected 2, found 1"}


@pytest.mark.parametrize(
    ("row", "end"),
    [
        ({"restored": {"error": None}, "state": "restored"}, "the old one was restored and proven"),
        ({"restored": {"error": None}, "changed": False}, "the old one never stopped serving"),
        ({"restored": {"error": "it is gone"}}, "the old one does not serve either: it is gone"),
        ({"changed": False}, "what ran before runs on"),
        ({}, "there was nothing proven to go back to"),
    ],
)
def test_a_failure_says_what_serves_now(row: dict[str, Any], end: str) -> None:
    message = failure_message([{**ROW, **row}])
    assert message == f"instance main does not serve what was declared: slots: expected 2, found 1; {end}"


def test_the_end_of_the_log_follows_and_what_is_well_is_not_told() -> None:
    failed = {**ROW, "log_tail": ["one", "two"], "log": "/var/log/main.log"}
    lines = failure_message([{**ROW, "error": None}, failed]).splitlines()
    assert lines[1:] == ["The last 2 lines of its log (/var/log/main.log):", "one", "two"]
    assert failure_message([{**ROW, "error": None}]) == ""
