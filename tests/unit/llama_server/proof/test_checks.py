"""Checks of a proof."""

from __future__ import annotations

from plugins.module_utils.llama_server.proof.checks import Checks


def test_only_what_differs_is_a_failure_and_has_a_cause() -> None:
    checks = Checks()
    checks.compare("slots", 2, 2, "the server chose another number")
    checks.compare("build", "b1", "b2", "another release answers")
    checks.warn("busy", "1 of 1 slots", "nothing was measured")
    assert checks.failures() == ["build: expected b1, found b2 (another release answers)"]
    assert [(row["ok"], row["cause"]) for row in checks.rows] == [
        (True, ""), (False, "another release answers"), (True, "nothing was measured"),
    ]  # fmt: skip
