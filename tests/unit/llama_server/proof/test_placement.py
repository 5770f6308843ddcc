"""Placement: what a log says is that of the process that is proven."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.hostlib.instances import Instance
from plugins.module_utils.llama_server.client import Server
from plugins.module_utils.llama_server.folder import Folder
from plugins.module_utils.llama_server.gpus import Held
from plugins.module_utils.llama_server.proof import placement
from plugins.module_utils.llama_server.proof.checks import Checks
from plugins.module_utils.llama_server.proof.kept import keep_life
from plugins.module_utils.llama_server.proof.placement import prove_placement, prove_router_placement
from plugins.module_utils.llama_server.proof.subject import Subject
from plugins.module_utils.llama_server.runtimes.base import Status

ROUTER_LOG = """\
0.02.19 I srv          load: spawning server instance with name=big on port 8080
[ 8080] 0.00.05 I load_tensors: offloaded 9/99 layers to GPU
[ 8080] 0.00.05 I load_tensors:        CUDA0 model buffer size =  9000.00 MiB
0.09.19 I srv          load: spawning server instance with name=other on port 58080
[58080] 0.00.05 I load_tensors:        CUDA0 model buffer size =   100.00 MiB
1.02.19 I srv          load: spawning server instance with name=small on port 8080
[ 8080] 0.00.05 I load_tensors: offloaded 13/13 layers to GPU
[ 8080] 0.00.05 I load_tensors:        CUDA0 model buffer size =    70.00 MiB
"""


class Runtime:
    """A runtime whose process has written a log."""

    def __init__(self, log: str, life: str = "1") -> None:
        self.written, self.life = log.splitlines(), life

    def status(self, name: str) -> Status:
        return Status("running", 1, self.life)

    def log(self, name: str, lines: int | None = None) -> list[str]:
        return self.written[-lines:] if lines else self.written

    def lives(self, name: str, lives: Sequence[str]) -> list[list[str]]:
        return [self.written]

    def where_log(self, name: str) -> str:
        return "here"


def subject_of(config: dict[str, Any], runtime: Runtime, folder: Path) -> Subject:
    instance = Instance.from_json({"name": "main", "id": "0", **config})
    row: dict[str, Any] = {
        "placements": {}, "buffers_mib": {}, "generation": "0", "model": None, "tokens_per_second": 1.0, "error": None,
        "slots_by_model": {},
    }  # fmt: skip
    (folder / "main").mkdir(exist_ok=True)
    return Subject(
        instance,
        {},
        runtime,
        Folder(str(folder), "main"),
        Server(instance, None),
        runtime.status("main"),
        Checks(),
        row,
    )


def test_a_port_that_another_model_of_a_router_had_before_says_nothing_of_this_one(tmp_path: Path) -> None:
    model = {"uses_gpu": False}
    config = {"uses_gpu": False, "models": {"small": model, "big": model}}
    subject = subject_of(config, Runtime(ROUTER_LOG), tmp_path)
    prove_router_placement(subject, {"small": ["--port", "8080"]}, {"small"})
    assert subject.row["buffers_mib"] == {"CUDA0": {"model": 70.0}}
    assert [found["offloaded"] for found in subject.row["placements"].values()] == [[13, 13]]


LOADED = """\
launch: process 1 is main, verified generation 0
0.00.01 I srv    load_model: loading model '/m.gguf'
0.00.02 I load_tensors: offloaded 13/13 layers to GPU
0.00.02 I load_tensors:        CUDA0 model buffer size =    70.00 MiB
"""
REQUESTS = "9.00.01 I slot launch_slot_: id  0 | task 1 | processing task\n" * 1000
GPU = {"uses_gpu": True, "model": {"name": "m", "path": "/m.gguf"}, "n_gpu_layers": 99}


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the driver says that the process holds, by GPU; a model without input tensors."""
    held = {"GPU-1": 80.0}
    monkeypatch.setattr(placement, "held_memory", lambda pids, least_mib: Held(held))
    monkeypatch.setattr(placement, "input_mib", lambda path: 0.0)
    return held


@pytest.mark.parametrize(
    ("log", "life", "held_mib", "noted", "failed"),
    [
        (LOADED + REQUESTS, "2", 80.0, False, set()),  # it begins, and its log has it
        (REQUESTS, "1", 80.0, False, set()),  # it is the one that was proven
        (REQUESTS, "2", 80.0, True, set()),  # a new one, whose log has lost its beginning
        (REQUESTS, "2", 0.0, True, {"process on the GPU"}),  # and which lost its GPU
        (LOADED.replace("13/13", "0/13").replace("CUDA0", "CPU"), "2", 80.0, False,
         {"layers on the GPU"}),
        (LOADED.partition("0.00.02")[0] + REQUESTS, "2", 80.0, False, {"layers on the GPU"}),  # it says nothing of one
    ],
)  # fmt: skip
def test_a_log_that_lost_its_beginning_does_not_take_a_server_off_its_gpu(
    tmp_path: Path, on_gpu: dict[str, float], log: str, life: str, held_mib: float, noted: bool, failed: set[str]
) -> None:
    first = subject_of(GPU, Runtime(LOADED), tmp_path)
    prove_placement(first)
    assert first.checks.failures() == []
    keep_life(first.row, first.folder)
    on_gpu["GPU-1"] = held_mib
    again = subject_of(GPU, Runtime(log, life), tmp_path)
    prove_placement(again)
    assert {row["check"] for row in again.checks.rows if not row["ok"]} == failed
    assert any(row["check"] == "placement" for row in again.checks.rows) == noted
    if not failed:
        keep_life(again.row, again.folder)
        assert list(again.folder.last_proof().placements) == [f"0 {life}"]


def test_without_an_earlier_proof_a_log_that_says_nothing_is_no_placement(
    tmp_path: Path, on_gpu: dict[str, float]
) -> None:
    subject = subject_of(GPU, Runtime(REQUESTS), tmp_path)
    prove_placement(subject)
    assert "layers on the GPU: expected all, found none" in subject.checks.failures()[0]


def test_the_models_of_a_router_are_found_at_both_ends_of_a_long_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"uses_gpu": False}
    config = {"uses_gpu": False, "models": {"small": model, "big": model, "late": model}}
    late = ROUTER_LOG.replace("name=small", "name=late").replace("8080", "9090")
    runtime = Runtime(ROUTER_LOG)
    former = "0.00.01 I srv load: spawning server instance with name=late on port 9090\n[ 9090] I x: CUDA0 model buffer"
    end = f"{former} size = 5.00 MiB\nlaunch: process 1 is main\n{late}".splitlines()
    monkeypatch.setattr(runtime, "log", lambda name, lines=None: end if lines else ROUTER_LOG.splitlines())
    subject = subject_of(config, runtime, tmp_path)
    prove_router_placement(subject, {"small": ["--port", "8080"], "late": ["--port", "9090"]}, {"small", "late"})
    assert subject.row["buffers_mib"] == {"CUDA0": {"model": 140.0}}


def test_what_the_driver_does_not_report_is_a_note_and_no_failure(
    tmp_path: Path, on_gpu: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "held_memory", lambda pids, least_mib: Held(None, "not reported by this driver"))
    subject = subject_of(GPU, Runtime(LOADED), tmp_path)
    prove_placement(subject)
    assert subject.checks.failures() == []
    [noted] = [row for row in subject.checks.rows if row["check"] == "process on the GPU"]
    assert noted["cause"].startswith("not reported by this driver: ")
    assert subject.row["gpu_processes_mib"] is None
