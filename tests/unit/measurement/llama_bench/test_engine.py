"""What may be stopped for a run, and what kept a run from its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nexus_tasks.core.errors import DeployError
from nexus_tasks.fleet import playbook
from nexus_tasks.measurement.llama_bench import engine, playbooks, rows
from nexus_tasks.measurement.llama_bench.parsing import Sample
from nexus_tasks.measurement.llama_bench.playbooks import Place
from tests.llama_bench_runs import instance, planned


@pytest.mark.parametrize(
    ("answer", "made", "message"),
    [
        ({"status": 1, "said": ["x", "error: no model", "bye"]}, 0, r"failed \(exit status 1\): error: no model"),
        ({"status": 1, "said": []}, 0, "it gave no reason"),
        ({"status": -9, "said": ["loading"]}, 0, "as the kernel does where memory runs out"),
        ({"status": 0, "said": []}, 2, "measured 2 of 3 repetitions"),
    ],
)
def test_a_run_that_is_not_whole_says_why(answer: dict[str, Any], made: int, message: str) -> None:
    asked = planned()
    samples = [Sample(1, 0.0, 0.1, 0.1)] * made
    failure = engine._failure(asked, samples, answer)
    assert failure is not None
    with pytest.raises(DeployError, match=message):
        raise DeployError(failure, hint="")
    requests, stages = rows.rows_of(asked, samples, 0.0)
    outcome = rows.summary_row(requests, stages, interrupted=False, failure=failure, wall_s=1.0)
    assert (outcome.ok, outcome.valid, outcome.reasons) == (False, False, [failure])


def test_a_whole_run_has_no_failure() -> None:
    assert engine._failure(planned(), [Sample(1, 0.0, 0.1, 0.1)] * 3, {"status": 0, "said": []}) is None


def row(name: str, state: str = "running", **more: Any) -> dict[str, Any]:
    return {"name": name, "state": state, "trouble": None, "remark": None, **more}


def test_only_a_server_that_runs_is_stopped_and_the_others_run_beside_the_tool() -> None:
    rows = [row("main"), row("other"), row("old", "stopped"), row("new", "not deployed")]
    assert engine._running(rows, instance(), stop_server=True) == (True, ["rig/other"])
    assert engine._running(rows, instance(), stop_server=False) == (False, ["rig/main", "rig/other"])
    assert engine._running([row("main", "stopped")], instance(), stop_server=True) == (False, [])


@pytest.mark.parametrize(
    "found",
    [row("main", "failed"), row("main", trouble="what runs was not proven"), row("main", switching=True)],
)
def test_a_server_that_may_not_come_back_is_not_stopped(found: dict[str, Any]) -> None:
    with pytest.raises(DeployError, match="it may not come back"):
        engine._running([found], instance(), stop_server=True)


def test_a_tool_whose_host_was_lost_is_ended_before_the_server_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done: list[str] = []

    def play(place: Place, console: Console, **variables: Any) -> dict[str, Any]:
        done.append("end" if variables.get("raw_ends") else "measure")
        if done[-1] == "measure":
            raise DeployError("the way there was lost", hint="")
        return {"lines": []}

    monkeypatch.setattr(playbooks, "play", play)
    monkeypatch.setattr(playbooks, "move", lambda verb, *_: done.append(verb))
    monkeypatch.setattr(playbook, "run_on", lambda *_, **__: playbook.Outcome(0, {}, {"rig": [row("main")]}, {}))
    with pytest.raises(DeployError, match="the way there was lost"):
        engine.run(
            instance(), planned(), root=tmp_path, console=Console(quiet=True), stop_server=True
        )  # fmt: skip
    assert done == ["stop", "measure", "end", "start"]
