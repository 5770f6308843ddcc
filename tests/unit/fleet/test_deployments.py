"""The fleet as its deployments left it: states, sentences, tables and figures."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from nexus_tasks.fleet import deployments
from nexus_tasks.fleet.deployments import Fleet
from nexus_tasks.records.deployment_rows import InstanceRow
from tests.deployment_records import NOON, Row, host, instance, lost, restored, typed, write

HOUR = timedelta(hours=1)


def states(state: Fleet) -> dict[str, str]:
    return {one.label: one.state for one in state.instances}


def test_an_instance_is_as_the_last_deployment_left_it_that_reported_it(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", instance(release="old"), instance("second")), host("b", instance()))
    write(tmp_path, NOON + HOUR, host("a", instance(release="new")), limit="a")
    state = deployments.read(tmp_path)
    assert states(state) == {"a/main": "verified", "a/second": "verified", "b/main": "verified"}
    assert [one.row.release for one in state.instances] == ["new", *[instance()["release"]] * 2]
    assert [one.verified_at for one in state.instances] == [NOON + HOUR, NOON, NOON]
    assert state.well


def test_a_check_and_a_plan_change_nothing(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", instance()))
    write(tmp_path, NOON + HOUR, host("a", instance(state="failed"), instance("new", "planned")), check=True)
    write(tmp_path, NOON + 2 * HOUR, host("a", instance(state="planned")))
    state = deployments.read(tmp_path)
    assert states(state) == {"a/main": "verified"}
    assert state.instances[0].at == NOON
    assert state.well
    assert len(state.deployments) == 3
    assert len(state.real) == 2


def test_a_restored_instance_shows_what_it_serves_and_is_not_well(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", restored(before=instance(release="before", tokens_per_second=99.0), release="new")))
    (one,) = deployments.read(tmp_path).instances
    assert one.serving.release == "before"
    assert one.verified_at == NOON
    assert deployments.read(tmp_path).broken == [one]


def test_a_failed_instance_keeps_the_time_of_its_last_proof(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", instance()))
    write(tmp_path, NOON + HOUR, host("a", instance(state="failed", error="it died while loading.\nsecond line")))
    (one,) = deployments.read(tmp_path).instances
    assert (one.state, one.verified_at, deployments.cause(one.row)) == ("failed", NOON, "it died while loading")


def test_an_instance_that_was_stopped_or_is_no_longer_declared_keeps_its_facts(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", instance(), instance("second"), instance("third")))
    facts: Row = {"changed": False, "checks": [], "error": None}
    brief = [{"name": "second", "state": "undeclared", **facts}, {"name": "third", "state": "stopped", **facts}]
    write(tmp_path, NOON + HOUR, host("a", instance(changed=False), *brief))
    state = deployments.read(tmp_path)
    assert states(state) == {"a/main": "verified", "a/second": "undeclared", "a/third": "stopped"}
    assert [one.row.n_ctx for one in state.instances] == [32768] * 3
    assert state.well


def test_an_instance_that_was_removed_is_gone(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", instance(), instance("second")))
    gone = {"name": "second", "state": "stopped", "changed": True, "checks": [], "error": None, "removed": True}
    write(tmp_path, NOON + HOUR, host("a", instance(changed=False), gone))
    assert states(deployments.read(tmp_path)) == {"a/main": "verified"}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (restored(), "It serves what it served before: gpt-oss-20b-mxfp4, b11434-0c1e57098, b11434-cuda-89-1a2b3c4d."),
        (
            restored(trial=True, changed=False, before={"name": "main", "checks": []}),
            "It serves what it served before: proven again.",
        ),
        (
            instance(state="failed", changed=True, restored={**instance(), "error": "it died too"}),
            "What it served before does not serve either: it died too.",
        ),
        (instance(state="failed", changed=False), "It was left running."),
        (instance(state="failed", changed=True), "Nothing that was proven runs there."),
    ],
)
def test_what_is_there_after_a_failed_proof_is_said(row: Row, told: str) -> None:
    assert deployments.aftermath(msgspec.convert(row, InstanceRow)) == told


def test_a_host_that_failed_before_its_instances_is_in_trouble_until_it_is_deployed_again(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", instance()), host("b", instance()))
    write(tmp_path, NOON + HOUR, lost("a"), lost("b", "No route to host", unreachable=True))
    state = deployments.read(tmp_path)
    assert states(state) == {"a/main": "verified", "b/main": "verified"}
    assert [(one.host, one.what) for one in state.troubles] == [
        ("a", "llama_cpp: Follow the build"),
        ("b", "not reached"),
    ]
    assert not state.well
    write(tmp_path, NOON + 2 * HOUR, host("a", instance(changed=False)), limit="a")
    assert [one.host for one in deployments.read(tmp_path).troubles] == ["b"]


@pytest.mark.parametrize("how", [{"finished": False}, {"interrupted": True}])
def test_an_interrupted_deployment_is_told_of(tmp_path: Path, how: dict[str, bool]) -> None:
    write(tmp_path, NOON, host("a", instance()), host("b", instance()), **how)
    state = deployments.read(tmp_path)
    assert not state.troubles  # both came to their instances
    assert not state.well
    assert deployments.sentences(state)[2] == (
        "Not as it should be: the last deployment (all, 2026-11-22 12:00 UTC) was interrupted."
    )
    assert state.deployments[0].verdict == "interrupted"
    write(tmp_path, NOON + HOUR, host("a", instance()), host("b"), **how)
    assert [one.host for one in deployments.read(tmp_path).troubles] == ["b"]


@pytest.mark.parametrize(
    ("row", "became"),
    [
        (host("a", instance(), instance("b", changed=False)), "verified"),
        (host("a", instance(changed=False)), "unchanged"),
        (host("a", instance(), restored("b")), "restored"),
        (host("a", restored(), instance("b", "failed")), "failed"),
        (host("a", instance(), ok=False, failed=True), "failed"),
        (lost("a"), "failed"),
        (lost("a", unreachable=True), "failed"),
        (host("a", instance(state="stopped")), "stopped"),
        (host("a", instance(state="planned")), ""),
        (host("a"), ""),
    ],
)
def test_a_host_shows_the_worst_that_became_of_its_instances(row: Row, became: str) -> None:
    assert deployments.outcome(typed(row)) == became
    assert not became or became in deployments.OUTCOMES


@pytest.mark.parametrize(
    ("hosts", "told"),
    [
        (
            [host("a", instance())],
            ["The fleet has 1 host with 1 instance.", "The one instance is verified.", "No deployment has failed."],
        ),
        (
            [host("a", instance(), instance("b")), host("b", instance())],
            ["The fleet has 2 hosts with 3 instances.", "All 3 instances are verified.", "No deployment has failed."],
        ),
        (
            [host("a", instance(), instance("b", "stopped"), instance("c", "undeclared"))],
            [
                "The fleet has 1 host with 3 instances.",
                "1 instance of 3 verified, 1 is stopped, 1 is no longer declared.",
                "No deployment has failed.",
            ],
        ),
        (
            [host("a", instance(), restored("b")), host("b", instance(state="failed", error="it died"))],
            [
                "The fleet has 2 hosts with 3 instances.",
                "1 of 3 instances verified, 1 restored, 1 failed.",
                "Not as it should be: a/b serves what it served before (2026-11-22 12:00 UTC): main is slower "
                "than declared; b/main failed (2026-11-22 12:00 UTC): it died.",
            ],
        ),
        (
            [lost("a"), *(lost(name, "gone", unreachable=True) for name in "bcde")],
            [
                "The fleet has 5 hosts, and no instance yet.",
                "No instance has been verified.",
                "Not as it should be: a (llama_cpp: Follow the build, 2026-11-22 12:00 UTC): the build failed; "
                "b (not reached, 2026-11-22 12:00 UTC): gone; c (not reached, 2026-11-22 12:00 UTC): gone; and 2 more.",
            ],
        ),
    ],
)
def test_three_sentences_say_what_there_is_and_what_is_wrong(tmp_path: Path, hosts: list[Row], told: list[str]) -> None:
    write(tmp_path, NOON, *hosts)
    assert deployments.sentences(deployments.read(tmp_path)) == told


def test_a_failure_that_was_mended_is_told_as_the_last_one(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", restored(error=None)))
    write(tmp_path, NOON + HOUR, host("a", instance()))
    assert deployments.sentences(deployments.read(tmp_path))[2] == (
        "Nothing is amiss now; the last failure was on 2026-11-22 12:00 UTC: a/main restored: decode speed: expected "
        "at least 180 tokens/s, found 41.5 (layers were left on the processor)."
    )


def test_mapped_and_pinned_buffers_count_as_the_hosts_memory() -> None:
    parts = {"CUDA0": 8.0, "CPU_Mapped": 4.0, "CPU": 2.0, "CUDA_Host": 1.0}
    buffers = {name: {"model": size, "kv": None} for name, size in parts.items()}
    row = msgspec.convert(instance(buffers_mib=buffers), InstanceRow)
    assert deployments.device_memory_mib(row) == {"CUDA0": 8.0, "CPU": 7.0}
