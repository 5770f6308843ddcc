"""Rows of the llama_server modules in words: states, troubles, remarks."""

from __future__ import annotations

import pytest

from nexus_tasks.hostlib.server_rows import condition, judged
from nexus_tasks.hostlib.server_tables import status_table
from tests.server_rows import Row, lines, running


@pytest.mark.parametrize(
    ("row", "word", "trouble"),
    [
        (running(), "running", None),
        (running(state="stopped", phase="stopped"), "stopped", None),
        (running(phase="restored"), "running", None),
        (running(switching=True, phase="draining"), "switching", None),
        (running(switching=True, phase="switching", state="stopped"), "switching", None),
        (running(health=503), "loading", None),
        (running(health=None), "no answer", "nothing answers at http://127.0.0.1:8600"),
        (running(health=None, unasked="port 8600 is held by process 7"), "no answer", "held by process 7"),
        (running(health=None, at_work=True, clients=41), "busy", None),
        (running(health=None, at_work=False, clients=41), "no answer", "nothing answers at http://127.0.0.1:8600"),
        (running(sleeping=True), "sleeping", None),
        (running(state="stopped"), "down", "it should run"),
        (running(state="failed"), "failed", "it ended again and again"),
        (running(state="starting"), "starting", "is being started again"),
        (running(state="unsupervised"), "unsupervised", "restart it"),
        (running(phase="stopped"), "running", "it was stopped and runs all the same"),
        (running(phase="switching", state="stopped"), "down", "ended while it was switching: deploy again"),
        (running(phase="failed", last_error="no GPU"), "not proven", "what runs was not proven: no GPU"),
        (running(phase="failed", state="stopped", last_error="no GPU"), "failed", "nothing runs: no GPU"),
    ],
)  # fmt: skip
def test_a_state_is_a_word_and_trouble_says_what_to_do(row: Row, word: str, trouble: str | None) -> None:
    assert condition(row) == word
    (row,) = judged([row], "status", ["main"])
    assert (row["trouble"] is None) == (trouble is None)
    shown = status_table([row], 200)
    assert (word.upper() if trouble else word) in shown
    assert (trouble or "") in shown


def test_how_many_wait_for_a_busy_server_is_said_and_is_no_trouble() -> None:
    (row,) = judged([running(health=None, at_work=True, clients=41)], "status", ["main"])
    assert (row["trouble"], row["remark"]) == (
        None, "it computes and has no time to say what: 41 connections are open",
    )  # fmt: skip


def test_why_slots_are_not_shown_is_said_and_is_no_trouble() -> None:
    (row,) = judged([running(busy=None, unasked="who answers can't be told")], "status", ["main"])
    assert (row["trouble"], row["remark"]) == (None, "who answers can't be told")


def test_what_is_not_declared_and_what_is_not_deployed_is_said_and_is_no_trouble() -> None:
    rows = judged([running("old")], "status", ["new"])
    assert [(row["name"], row["declared"], row["trouble"]) for row in rows] == [
        ("old", False, None),
        ("new", True, None),
    ]
    shown = lines(status_table(rows))
    assert "not declared" in shown
    assert "declared and not deployed: ansible-playbook deploy.yml -l HOST" in shown


def test_only_a_status_tells_of_what_was_never_deployed() -> None:
    assert judged([], "restart", ["new"]) == []
    assert judged([running("old")], "status", ["new"], ["old"])[0]["name"] == "old"


def test_a_restored_server_says_why_the_deployment_failed() -> None:
    (row,) = judged([running(phase="restored", last_error="out of memory")], "status", ["main"])
    assert "the server before it was restored: out of memory" in row["remark"]
