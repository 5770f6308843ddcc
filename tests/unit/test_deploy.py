"""Deploying, watched: what is said of each host at the end, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_tasks import deploy
from tests.outcomes import outcome


@pytest.mark.parametrize(
    ("changes", "check", "expected"),
    [
        ({}, False, ["unchanged", "changed, 1.3 s without service"]),
        ({}, True, ["unchanged", "would change, 1.3 s without service"]),
        ({"failures": {"rig-2": "x"}}, False, ["unchanged", "failed, 1.3 s without service"]),
        (
            {"rows": {"rig-1": [{"name": "main", "state": "planned"}]}, "failures": {"rig-2": "x"}},
            False,
            ["left as it was, because another host failed first", "failed"],
        ),
    ],
)
def test_a_deployment_ends_with_a_line_a_host(changes: dict[str, Any], check: bool, expected: list[str]) -> None:
    assert [said for _, said in deploy.summary(outcome(**changes), check=check)] == expected


def test_an_unreachable_host_is_called_that() -> None:
    stats = {"processed": {"rig-1": 1}, "dark": {"rig-1": 1}}
    assert deploy.summary(outcome(stats=stats, failures={"rig-1": "x"}), check=False) == [("rig-1", "unreachable")]


@pytest.mark.parametrize(
    "argument", ["-K", "-bK", "-k", "--ask-become-pass", "--ask-vault-password", "--step", "dev@prompt"]
)
def test_what_would_ask_is_refused_because_nobody_would_see_the_question(
    argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert deploy.main(["-l", "local", argument]) == 1
    assert f"{argument} would ask" in capsys.readouterr().err


@pytest.mark.parametrize("argument", ["-C", "-CD", "-DvC", "--check"])
def test_check_mode_is_seen_however_it_is_asked_for(argument: str) -> None:
    assert deploy.CHECKS.fullmatch(argument)
    assert not deploy.ASKS.fullmatch(argument)
