"""Looking after servers: which hosts a verb is about, and what is made of Ansible's answer."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_tasks import control, deploy
from nexus_tasks.core.errors import UsageError
from nexus_tasks.fleet.playbook import Outcome


def outcome(**changes: Any) -> Outcome:
    """Two hosts with an instance each, of which rig-2 has just had its server switched."""
    rows = {
        "rig-1": [{"name": "main", "state": "verified", "changed": False, "checks": [], "error": None}],
        "rig-2": [
            {
                "name": "main",
                "state": "verified",
                "changed": True,
                "checks": [],
                "error": None,
                "downtime_seconds": 1.26,
            }
        ],
    }
    stats = {"processed": {"rig-1": 1, "rig-2": 1}, "changed": {"rig-2": 3}}
    return Outcome(**{"status": 0, "stats": stats, "rows": rows, "failures": {}, **changes})


@pytest.mark.parametrize(
    ("gpu_hosts", "verb", "expected"),
    [(True, "status", "gpu-hosts"), (True, "logs", "gpu-hosts"), (False, "status", "local"), (False, "stop", "local")],
)
def test_without_a_pattern_it_is_the_gpu_hosts_or_this_machine_while_there_are_none(
    monkeypatch: pytest.MonkeyPatch, gpu_hosts: bool, verb: str, expected: str
) -> None:
    monkeypatch.setattr(control, "default_pattern", lambda: "gpu-hosts" if gpu_hosts else "local")
    assert control.chosen_pattern(verb, None) == expected
    assert control.chosen_pattern(verb, "rig-1") == "rig-1"


@pytest.mark.parametrize("verb", ["start", "stop", "restart", "rollback"])
def test_nobody_takes_all_gpu_hosts_down_by_leaving_the_pattern_out(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setattr(control, "default_pattern", lambda: "gpu-hosts")
    with pytest.raises(UsageError, match=f"{verb} needs to be told where") as refused:
        control.chosen_pattern(verb, None)
    assert f"nox -s {verb} -- gpu-hosts" in refused.value.hint


def test_each_row_knows_its_host() -> None:
    assert [(row["host"], row["name"]) for row in control.rows_of(outcome())] == [("rig-1", "main"), ("rig-2", "main")]


def test_a_host_that_failed_before_it_had_instances_has_a_row_that_says_so() -> None:
    stats = {"processed": {"rig-1": 1, "rig-2": 1}, "dark": {"rig-1": 1}, "failures": {"rig-2": 1}}
    rows = control.rows_of(outcome(stats=stats, rows={}, failures={"rig-1": "no route", "rig-2": "no Python"}))
    assert [(row["host"], row["name"], row["state"], row["error"]) for row in rows] == [
        ("rig-1", None, "unreachable", "no route"),
        ("rig-2", None, "failed", "no Python"),
    ]


def test_a_host_that_failed_with_instances_has_its_instances() -> None:
    rows = control.rows_of(outcome(failures={"rig-2": "main does not serve"}))
    assert [(row["host"], row["name"]) for row in rows] == [("rig-1", "main"), ("rig-2", "main")]


def test_what_is_wrong_is_red_and_what_is_well_is_green() -> None:
    shown = control.coloured("rig-1/main  running  x\nrig-2/main  DOWN  x\n  slots  4  1  FAILED\n  keys  ops  ops  ok")
    styles = {shown.plain[span.start : span.end].strip(): str(span.style) for span in shown.spans}
    assert styles == {"running": "green", "DOWN": "bold red", "FAILED": "bold red", "ok": "green"}


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
