"""What a server's log says of its memory, beside its plan."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from plugins.module_utils.hostlib.instances import Instance, ProofRecord
from plugins.module_utils.llama_server.folder import Folder
from plugins.module_utils.llama_server.proof.checks import Checks
from plugins.module_utils.llama_server.proof.planned_memory import compare_with_plan
from plugins.module_utils.llama_server.proof.subject import Subject

LOGGED = {
    "CUDA0": {"model": 10694.15, "kv": 3018.0, "compute": 404.0}, "CPU_Mapped": {"model": 379.71},
    "CUDA_Host": {"compute": 10.0}, "CPU": {"compute": 1.5},
}  # fmt: skip
FIGURES = [
    ("CUDA0", "weights", 10694.15),
    ("CUDA0", "KV", 3018.0),
    ("CUDA0", "compute", 404.0),
    ("host", "weights", 379.71),
]
PARTS = [{"device": device, "part": part, "plan_mib": mib} for device, part, mib in FIGURES]


def subject(tmp_path: Path, parts: list[dict[str, Any]] | None, last: ProofRecord | None = None) -> Subject:
    folder = cast(Folder, SimpleNamespace(last_proof=lambda: last or ProofRecord()))
    wanted = {"plan": parts and {"parts": parts}}
    given = SimpleNamespace(config=Instance(id="abc"), wanted=wanted, folder=folder, checks=Checks(), row={})
    return cast(Subject, given)


def test_buffers_stand_beside_what_was_planned_those_of_the_host_together(tmp_path: Path) -> None:
    about = subject(tmp_path, [*PARTS, {"device": "host", "part": "compute", "plan_mib": 11.0}])
    compare_with_plan(about, {"": LOGGED})
    assert about.row["memory"] == [
        *({**part, "measured_mib": part["plan_mib"]} for part in PARTS),
        {"device": "host", "part": "compute", "plan_mib": 11.0, "measured_mib": 11.5},
    ]
    assert about.checks.rows == []


def test_a_large_difference_is_a_note_with_both_figures_and_no_failure(tmp_path: Path) -> None:
    about = subject(tmp_path, [{**PARTS[2], "plan_mib": 304.0}, {**PARTS[3], "plan_mib": 350.0}])
    compare_with_plan(about, {"": LOGGED})
    [row] = about.checks.rows
    assert (row["check"], row["expected"], row["found"]) == ("CUDA0 compute", "304 MiB planned", "404 MiB")
    assert (row["ok"], bool(row["cause"])) == (True, True)


def test_what_lies_where_nothing_was_planned_is_told(tmp_path: Path) -> None:
    about = subject(tmp_path, PARTS)
    compare_with_plan(about, {"": {**LOGGED, "CUDA1": {"model": 500.0}}})
    assert {"device": "CUDA1", "part": "weights", "plan_mib": 0.0, "measured_mib": 500.0} in about.row["memory"]
    assert [row["check"] for row in about.checks.rows] == ["CUDA1 weights"]


def test_what_runs_on_is_compared_with_the_plan_of_its_last_proof(tmp_path: Path) -> None:
    kept = ProofRecord.from_json({"generation": "abc", "memory": [{**PARTS[0], "measured_mib": 1.0}]})
    about = subject(tmp_path, None, kept)
    compare_with_plan(about, {"": {"CUDA0": LOGGED["CUDA0"]}})
    assert about.row["memory"] == [{**PARTS[0], "measured_mib": 10694.15}]
    other = subject(tmp_path, None, ProofRecord.from_json({**kept.as_json(), "generation": "old"}))
    compare_with_plan(other, {"": LOGGED})
    assert other.row["memory"] == []


def test_models_of_a_router_have_their_own(tmp_path: Path) -> None:
    parts = [{**PARTS[0], "model": "a"}, {**PARTS[0], "model": "b"}]
    about = subject(tmp_path, parts)
    compare_with_plan(about, {"a": {"CUDA0": {"model": 10694.0}}})
    figures = [(part["model"], part["measured_mib"]) for part in about.row["memory"] if part["part"] == "weights"]
    assert figures == [("a", 10694.0), ("b", None)]
