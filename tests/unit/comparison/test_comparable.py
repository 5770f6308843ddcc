"""What can be compared: what is refused, and what is warned of."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest

from nexus_tasks.comparison import comparable
from nexus_tasks.comparison.verdicts import judge
from nexus_tasks.core.errors import UsageError
from nexus_tasks.records.benchmark_rows import Watch
from nexus_tasks.records.store import BenchmarkRecord
from tests import report_records
from tests.compare_records import changed, levels, run


def of_lengths(run_id: str, concurrency: int) -> BenchmarkRecord:
    """A run of context scaling with one length."""
    planned = [{"concurrency": concurrency, "rate_per_s": None, "prompt_tokens": 512}]
    return run(run_id, header={"load.axis": "prompt_tokens", "load.planned": planned})


def test_prompt_lengths_are_compared_at_the_same_number_of_users() -> None:
    assert judge([of_lengths("a", 4)], [of_lengths("b", 4)]).findings
    with pytest.raises(UsageError) as caught:
        judge([of_lengths("a", 1)], [of_lengths("b", 4)])
    assert "concurrency 1 against 4" in caught.value.message


def test_bursts_of_another_size_are_another_load() -> None:
    a, b = [run(name, header={"load.mode": "burst", "load.planned": [{"rate_per_s": 4.0, "burst": size}]})
            for name, size in (("a", 2), ("b", 8))]  # fmt: skip
    with pytest.raises(UsageError) as caught:
        judge([a], [b])
    assert "burst 2 against 8" in caught.value.message


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"workload.prompt_tokens": {"kind": "fixed", "mean": 64}}, "prompt_tokens fixed 512 against fixed 64"),
        ({"workload.api": "chat"}, "api completion against chat"),
        ({"workload.file": {"name": "x", "sha256": "ab", "entries": 3}}, "file unknown against ab"),
        ({"workload.temperature": 1}, "temperature 0 against 1"),
        ({"load.mode": "poisson"}, "mode closed against poisson"),
        ({"load.engine": "llama-bench"}, "engine http against llama-bench"),
        ({"model.name": "other"}, "different models: made-up against other"),
        ({"load.planned": [{"concurrency": 4}]}, "no level of load in common: concurrency 1 and concurrency 4"),
    ],
)
def test_what_asked_something_else_is_refused_with_what_differs(header: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        judge([run("a")], [run("b", header=header)])
    assert said in caught.value.message


@pytest.mark.parametrize(("key", "other"), [("preset", "other"), ("seed", 7)])
def test_what_does_not_change_the_load_may_differ(key: str, other: Any) -> None:
    assert judge([run("a")], [run("b", header={f"workload.{key}": other})]).findings


def test_the_same_file_under_another_name_is_the_same() -> None:
    a, b = [run(name, header={"workload.file": {"name": name, "sha256": "ab", "entries": 3}}) for name in "ab"]
    assert judge([a], [b]).findings


def test_models_are_compared_only_where_that_is_what_is_compared() -> None:
    b = run("b", header={"model.name": "other"})
    with pytest.raises(UsageError) as caught:
        judge([run("a")], [b])
    assert "--across model" in caught.value.hint
    assert judge([run("a")], [b], across=("model",)).differences == ["model: made-up → other"]


def test_a_run_that_is_not_valid_is_refused_with_the_reasons() -> None:
    invalid = changed(run("b"), {}, valid=False, reasons=["the event loop was late"])
    with pytest.raises(UsageError) as caught:
        judge([run("a")], [invalid])
    assert "b is not valid: the event loop was late" in caught.value.message


def test_a_run_that_was_cut_short_is_not_valid_when_a_stage_of_it_is_not() -> None:
    b = dataclasses.replace(levels(run("b"), {1: 1.0, 8: 1.0}, 20), summary=None)
    late = report_records.watch(0.0, 1.0, valid=False, reasons=["the event loop was late"])
    b.stages[0].watch = msgspec.convert(late, Watch)
    with pytest.raises(UsageError) as caught:
        judge([levels(run("a"), {1: 1.0, 8: 1.0}, 20)], [b])
    assert "b is not valid: the event loop was late" in caught.value.message


def test_a_run_is_not_compared_with_itself() -> None:
    with pytest.raises(UsageError):
        judge([run("a"), run("b")], [run("a")])


def test_runs_of_different_builds_are_no_repeats() -> None:
    with pytest.raises(UsageError) as caught:
        judge([run("a"), run("b", header={"server.build": "b2"})], [run("c")])
    assert "build: b1 → b2" in caught.value.message


def test_what_was_changed_on_purpose_is_named() -> None:
    argv = ["/releases/b1/llama-server", "--port", "8600", "--ctx-size", "4096", "--flash-attn", "on"]
    a = run("a", header={"server.argv": argv})
    other = ["/releases/b2/llama-server", "--port", "8601", "--ctx-size", "8192", "--flash-attn", "on", "--no-mmap"]
    b = run("b", header={"server.argv": other, "server.build": "b2"})
    assert judge([a], [b]).differences == ["build: b1 → b2", "argv: -[--ctx-size 4096] +[--ctx-size 8192] +[--no-mmap]"]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"host_state.driver": "580"}, "driver differs: 570 against 580"),
        ({"host_state.power_limit_w": [300]}, "power limit in W differs: 700 against 300"),
        ({"host_state.governor": "powersave"}, "CPU governor differs: performance against powersave"),
        ({"endpoint.host": "gpu2"}, "host differs: localhost against gpu2"),
        ({"endpoint.tunnel": {"via": "ssh", "host": "gpu2"}}, "tunnel differs: direct against through ssh"),
    ],
)
def test_other_machines_and_drivers_are_warned_of(header: dict[str, Any], said: str) -> None:
    known = {"host_state.driver": "570", "host_state.power_limit_w": [700], "host_state.governor": "performance"}
    found = judge([run("a", header=known)], [run("b", header={**known, **header})])
    assert list(found.warnings) == [said]


def test_what_is_unknown_of_one_run_is_no_difference() -> None:
    assert not judge([run("a")], [run("b", header={"host_state.driver": "580"})]).warnings


def test_runs_that_failed_in_part_or_were_throttled_are_warned_of() -> None:
    gpus: list[list[dict[str, Any]]] = [[{"index": 0, "throttled": ["power cap"]}], []]
    samples = [report_records.typed(report_records.sample(0.0, of_moment)) for of_moment in gpus]
    a = dataclasses.replace(run("a"), samples=samples)
    b = changed(run("b"), {}, ok=False, failed=2)
    assert comparable.warnings([a], [b]) == [
        "a: a GPU was throttled (power cap)",
        "b: 2 of 20 requests failed",
    ]


def at_levels(run_id: str, *concurrencies: int, axis: str = "concurrency", mode: str = "closed") -> BenchmarkRecord:
    planned = [{"concurrency": concurrency} for concurrency in concurrencies]
    return run(run_id, header={"load.planned": planned, "load.axis": axis, "load.mode": mode})


def test_runs_at_other_levels_asked_the_same_but_did_not_measure_alike() -> None:
    a, b = at_levels("a", 1, 8), at_levels("b", 1, 16)
    assert comparable.same_workload(a, b)
    assert not comparable.measured_alike(a, b)
    assert comparable.measured_alike(a, at_levels("c", 1, 8))


def test_sweeps_are_alike_where_they_go_along_one_axis() -> None:
    a, b = (at_levels(name, users, mode="sweep") for name, users in (("a", 1), ("b", 8)))
    assert comparable.measured_alike(a, b)
    assert not comparable.measured_alike(a, at_levels("c", 1, mode="sweep", axis="rate_per_s"))


@pytest.mark.parametrize("header", [{"model.name": "other"}, {"workload.api": "chat"}])
def test_runs_of_another_model_or_workload_did_not_measure_alike(header: dict[str, Any]) -> None:
    assert not comparable.measured_alike(run("a"), run("b", header=header))
    assert comparable.measured_alike(run("a"), run("b", header={"server.build": "b2", "workload.seed": 7}))
