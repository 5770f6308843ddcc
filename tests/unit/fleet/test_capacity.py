"""The fleet's memory from records of plans and deployments."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from nexus_tasks.core.errors import RecordError
from nexus_tasks.fleet import capacity
from nexus_tasks.records.plan_rows import CurvePoint, CurveRow
from tests.deployment_records import NOON, host, instance, write
from tests.plan_records import card, curve, machine, model, own, plan, server, write_record

LOGGED = {
    "CUDA0": {"model": 10000.0, "kv": 3018.0, "compute": 324.5},
    "CPU_Mapped": {"model": 379.7, "kv": None, "compute": None},
    "CUDA_Host": {"model": None, "kv": None, "compute": 24.0},
}


def planned(results: Path, verdict: str = "fits", name: str = "1-a") -> None:
    """A plan of two hosts that are alike, with one server each."""
    rows = [
        machine("rig-1", [24576], "declared", None, memory_mib=65536), machine("rig-2", [24576], "asked", None),
        model(0), curve(0), plan(0, [card("CUDA0", 10000, 3018, 324.5), own(380, 24)]),
        server("rig-1", "main", 0, verdict), server("rig-2", "main", 0, "fits"),
    ]  # fmt: skip
    write_record(results, rows, name)


def test_the_newest_plan_of_each_host_counts(tmp_path: Path) -> None:
    planned(tmp_path, "does not fit")
    write_record(
        tmp_path, [machine("rig-1", [81920], "declared", None), server("rig-1", "main", None, "unknown")], "2-b"
    )
    state = capacity.read(tmp_path)
    assert [(one.machine.host, one.machine.gpus_mib) for one in state.hosts] == [("rig-1", [81920]), ("rig-2", [24576])]
    assert (state.records, state.gpu_sizes(), len(state.models), len(state.curves)) == (2, [24576, 81920], 1, 1)
    assert capacity.tone(state) == "muted"


def test_parts_of_all_servers_of_a_host_are_added_up(tmp_path: Path) -> None:
    rows = [machine("rig", [24576, 24576], "declared", None), model(0), curve(0)]
    rows += [
        plan(0, [card("CUDA0", 100, 10, 1), card("CUDA1", 50, 5, 1), own(7, 1)]),
        server("rig", "a", 0, "fits", (0, 1)),
    ]
    rows += [server("rig", "b", 0, "fits", (1, 0))]
    write_record(tmp_path, rows, "1-a")
    (rig,) = capacity.read(tmp_path).hosts
    assert rig.taken(0) == rig.taken(1) == {"weights": 150, "kv": 15, "compute": 2, "other": 1200}
    assert rig.taken(None)["weights"] == 14


@pytest.mark.parametrize(("verdict", "tone"), [("fits", "good"), ("tight", "good"), ("does not fit", "bad")])
def test_three_sentences_open_the_page(tmp_path: Path, verdict: str, tone: str) -> None:
    planned(tmp_path, verdict)
    state = capacity.read(tmp_path)
    extent, trouble, proof = capacity.sentences(state)
    assert extent.startswith("The plan of 2 hosts has 2 models: ")
    assert ("does not fit: rig-1/main." in trouble) == (verdict == "does not fit")
    assert verdict == "does not fit" or trouble == "The fullest is GPU 0 of rig-2, to 57 %."
    assert proof == "No deployment has measured any of it yet."
    assert capacity.tone(state) == tone


def test_a_plan_stands_beside_what_the_servers_log_said(tmp_path: Path) -> None:
    planned(tmp_path)
    write(tmp_path, NOON + timedelta(hours=1), host("rig-1", instance(buffers_mib=LOGGED)), host("other", instance()))
    state = capacity.read(tmp_path)
    found = {(one.device, one.part): (one.plan_mib, one.measured_mib) for one in state.measured}
    assert found == {
        ("CUDA0", "weights"): (10000, 10000), ("CUDA0", "kv"): (3018, 3018), ("CUDA0", "compute"): (324.5, 324.5),
        ("host", "weights"): (380, 379.7), ("host", "compute"): (24, 24),
    }  # fmt: skip
    assert "Deployments measured 5 buffers of 1 server: off by 0.0 % at the median" in capacity.sentences(state)[2]


def test_the_plan_that_a_server_was_deployed_with_counts_more(tmp_path: Path) -> None:
    planned(tmp_path)
    memory = [
        {"device": "CUDA0", "part": "KV", "plan_mib": 100.0, "measured_mib": 101.0},
        {"device": "host", "part": "weights", "plan_mib": 5.0, "measured_mib": 5.0, "model": "small"},
        {"device": "CUDA0", "part": "compute", "plan_mib": 7.0, "measured_mib": None},
        {"device": "CUDA1", "part": "weights", "plan_mib": 0.0, "measured_mib": 0.0},
    ]
    write(tmp_path, NOON, host("rig-1", instance(buffers_mib=LOGGED, memory=memory)))
    found = [
        (one.server, one.device, one.part, one.plan_mib, one.measured_mib) for one in capacity.read(tmp_path).measured
    ]
    assert found == [("rig-1/main", "CUDA0", "kv", 100, 101), ("rig-1/main:small", "host", "weights", 5, 5)]


def test_without_a_plan_there_is_nothing_to_tell(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no plan records"):
        capacity.read(tmp_path)


def test_the_largest_context_lies_between_two_points_of_a_curve() -> None:
    points = [CurvePoint(n_ctx=4096 * step, weights_mib=1000, kv_mib=100.0 * step, compute_mib=0) for step in (1, 2, 4)]
    line = CurveRow(number=0, model=0, options=[], points=points)
    assert capacity.largest_context(line, 1000, 0) is None
    assert capacity.largest_context(line, 1150, 0) == 4096 + 2048
    assert capacity.largest_context(line, 1150 + 600, 600) == 4096 + 2048
    assert capacity.largest_context(line, 9999, 0) == 4 * 4096


def test_a_damaged_record_is_told_and_keeps_no_other_back(tmp_path: Path) -> None:
    planned(tmp_path)
    (tmp_path / "plan" / "0-damaged.jsonl").write_text("{\n")
    state = capacity.read(tmp_path)
    assert (len(state.hosts), len(state.unread)) == (2, 1)
