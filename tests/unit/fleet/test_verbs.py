"""Looking after servers: which hosts a verb is about, and what is made of Ansible's answer."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from nexus_tasks.core.errors import DeployError, UsageError
from nexus_tasks.fleet import playbook, verbs
from tests.outcomes import outcome


@pytest.mark.parametrize(
    ("gpu_hosts", "verb", "expected"),
    [(True, "status", "gpu-hosts"), (True, "logs", "gpu-hosts"), (False, "status", "local"), (False, "stop", "local")],
)
def test_without_a_pattern_it_is_the_gpu_hosts_or_this_machine_while_there_are_none(
    monkeypatch: pytest.MonkeyPatch, gpu_hosts: bool, verb: str, expected: str
) -> None:
    monkeypatch.setattr(verbs, "default_pattern", lambda: "gpu-hosts" if gpu_hosts else "local")
    assert verbs.chosen_pattern(verb, None) == expected
    assert verbs.chosen_pattern(verb, "rig-1") == "rig-1"


@pytest.mark.parametrize("verb", ["start", "stop", "restart", "rollback"])
def test_nobody_takes_all_gpu_hosts_down_by_leaving_the_pattern_out(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setattr(verbs, "default_pattern", lambda: "gpu-hosts")
    with pytest.raises(UsageError, match=f"{verb} needs a pattern of hosts") as refused:
        verbs.chosen_pattern(verb, None)
    assert f"nox -s {verb} -- gpu-hosts" in refused.value.hint


@pytest.mark.parametrize("rows", [{}, {"rig-1": []}])
def test_an_answer_that_can_not_be_read_is_not_that_nothing_is_deployed(
    monkeypatch: pytest.MonkeyPatch, rows: dict[str, Any]
) -> None:
    stats = {"processed": {"rig-1": 1, "rig-2": 1}, "failures": {"rig-1": 1}}
    answer = outcome(rows=rows, stats=stats, failures={"rig-1": "no Python"})
    monkeypatch.setattr(playbook, "run_on", lambda *_, **__: answer)
    with pytest.raises(DeployError, match="what Ansible found out about rig-2 could not be read"):
        verbs.run("status", "gpu-hosts", [], lines=1, console=Console())


def test_a_host_on_which_nothing_is_deployed_has_been_read(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = outcome(rows={"rig-1": [], "rig-2": []})
    monkeypatch.setattr(playbook, "run_on", lambda *_, **__: answer)
    assert verbs.rows_of(verbs.run("status", "gpu-hosts", [], lines=1, console=Console())) == []


def test_each_row_knows_its_host() -> None:
    assert [(row["host"], row["name"]) for row in verbs.rows_of(outcome())] == [("rig-1", "main"), ("rig-2", "main")]


def test_a_host_that_failed_before_it_had_instances_has_a_row_that_says_so() -> None:
    stats = {"processed": {"rig-1": 1, "rig-2": 1}, "dark": {"rig-1": 1}, "failures": {"rig-2": 1}}
    rows = verbs.rows_of(outcome(stats=stats, rows={}, failures={"rig-1": "no route", "rig-2": "no Python"}))
    assert [(row["host"], row["name"], row["state"], row["error"]) for row in rows] == [
        ("rig-1", None, "unreachable", "no route"),
        ("rig-2", None, "failed", "no Python"),
    ]


def test_a_host_that_failed_with_instances_has_its_instances() -> None:
    rows = verbs.rows_of(outcome(failures={"rig-2": "main does not serve"}))
    assert [(row["host"], row["name"]) for row in rows] == [("rig-1", "main"), ("rig-2", "main")]
