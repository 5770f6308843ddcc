"""Rows of a deployment's record, of results of tasks."""

from __future__ import annotations

import math

from plugins.plugin_utils.deployment_rows import Deployment, excerpt, instances, plain

INPUTS = {"ref": "b1"}
MANIFEST = {"name": "b1-cpu-0a", "inputs": INPUTS, "compiler": "gcc", "files": {"x": "1"}}
LOOK = {"name": "b1-cpu-0a", "inputs": INPUTS, "releases": []}


def test_of_a_long_message_the_beginning_and_the_end_are_kept() -> None:
    lines = excerpt("\n".join(map(str, range(100)))).splitlines()
    assert lines[:5] == ["0", "1", "2", "3", "(76 lines left out)"]
    assert lines[-1] == "99"


def test_values_are_what_json_can_hold_without_what_ansible_adds() -> None:
    value = {"a": (1, math.inf), "invocation": {"key": "x"}, "_ansible_no_log": True, "b": {1, 2}}
    assert plain(value) == {"a": [1, None], "b": "(set)"}


def test_a_look_at_what_there_is_reports_no_instance() -> None:
    row = {"name": "main", "state": "verified", "checks": []}
    assert instances({"instances": [row, {**row, "name": "chat", "phase": "verified"}]}) == {"main": row}
    assert instances({"instances": "none"}) == {}


def test_a_release_that_is_built_for_another_host_lies_with_its_builder_too() -> None:
    run = Deployment()
    for host in ("rig", "edge"):
        run.take_release(host, "llama_cpp_release", LOOK, where=host, changed=False)
    assert run.take_release("edge", "follow", {"manifest": MANIFEST}, where="rig", changed=True) is None
    row = run.take_release("edge", "llama_cpp_ship", {"manifest": MANIFEST}, where="edge", changed=True)
    assert row is not None
    assert (row["how"], row["from"], row["build"]["compiler"]) == ("taken", "rig", "gcc")
    assert run.hosts["rig"].row("rig")["release"] == "b1-cpu-0a"
    assert [entry["releases"] for entry in run.rows() if entry["type"] == "release"] == [["b1-cpu-0a"], ["b1-cpu-0a"]]


def test_a_host_that_failed_makes_the_run_one_that_is_not_ok() -> None:
    run = Deployment()
    run.host("rig").failed = True
    run.host("edge").changed = 2
    assert run.summary(1.23456, interrupted=False) == {
        "ok": False, "interrupted": False, "wall_s": 1.235,
        "hosts": {"ok": 1, "changed": 1, "failed": 1, "unreachable": 0},
    }  # fmt: skip
