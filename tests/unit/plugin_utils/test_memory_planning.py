"""Plans of memory for what is to start on a host: what is asked, and what is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.hostlib import gguf, gguf_json
from plugins.plugin_utils.memory_planning import Question, in_words, paths_on_host, plan_host
from tests.memory_model_list import MODELS
from tests.memory_models import write

PATH = "/opt/models/m.gguf"
THERE = {"path": PATH, "size_bytes": 1, "sha256": "0" * 64}
MISSING = {"path": PATH, "size_bytes": None, "sha256": None}
NONE_RUNS: dict[str, Any] = {"stays": False, "ends": False, "gpus_mib": {}, "host_mib": 0.0}


def found(*free_mib: float | None, **changes: Any) -> dict[str, Any]:
    """What a host tells: GPUs of 24000 MiB with so much free."""
    gpus = [
        {"index": str(index), "uuid": f"GPU-{index}", "name": "NVIDIA L4", "total_mib": 24_000.0, "free_mib": free}
        for index, free in enumerate(free_mib)
    ]
    return {
        "gpus": gpus, "gpus_why": "" if gpus else "there is no nvidia-smi", "available_mib": 60_000.0, "headers": {},
        "servers": {}, **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The headers of a model that takes 3,944 MiB, as a host tells them."""
    header = gguf.read_header(str(write(tmp_path_factory.mktemp("m") / "m.gguf", MODELS["qwen3moe"])))
    return {PATH: {"files": [gguf_json.header_as_json(header)]}}


def question(
    instances: dict[str, dict[str, Any]], tells: dict[str, Any], *, file: dict[str, Any] = THERE, **changes: Any
) -> Question:
    """Instances by name with what of their configuration matters; all serve model m."""
    argv = ["--model", "m", "--ctx-size", "8192", "--parallel", "1", "--n-gpu-layers", "99"]
    config: dict[str, Any] = {"uses_gpu": True, "gpus": None, "environment": {}}
    planned = {
        "models": [{"instance": name, "model": "m", "argv": argv, "gpus": None} for name in instances],
        "profiles": {"m": {"url": "http://127.0.0.1:9/m.gguf", "sha256": "0" * 64}},
        "servers": {name: {"may_overcommit": False, "at_once": 1} for name in instances},
    }
    declared = {name: {"config": {**config, **given}} for name, given in instances.items()}
    return replace(Question("rig-1", declared, planned, {"m": file}, tells), **changes)


def test_what_is_replaced_gives_its_memory_back(headers: dict[str, Any]) -> None:
    held = {**NONE_RUNS, "ends": True, "gpus_mib": {"GPU-0": 5000.0}}
    tells = found(1000.0, headers=headers, servers={"main": held})
    assert plan_host(question({"main": {}}, tells))["fitting"]
    # What another one holds that goes on running does not come back.
    tells = found(2500.0, headers=headers, servers={"main": NONE_RUNS, "other": {**held, "ends": False, "stays": True}})
    [line] = plan_host(question({"main": {}, "other": {}}, tells))["refused"]
    assert line.startswith("instance main on rig-1 does not fit: CUDA0 (NVIDIA L4) is short by ")
    assert "it would with n_cpu_moe: " in line


def test_only_what_starts_is_planned(headers: dict[str, Any]) -> None:
    tells = found(0.0, headers=headers, servers={"main": {**NONE_RUNS, "stays": True}})
    answer = plan_host(question({"main": {}}, tells))
    assert (answer["plans"], answer["refused"], answer["seen"]) == ({}, [], [])


@pytest.mark.parametrize(
    ("config", "device"),
    [
        ({"gpus": ["1"]}, "CUDA0"),
        ({"gpus": ["GPU-1"]}, "CUDA0"),
        ({"environment": {"CUDA_VISIBLE_DEVICES": "1"}}, "CUDA0"),
        ({"gpus": None}, "CUDA0 (NVIDIA L4), "),
    ],
)
def test_an_instance_has_the_gpus_that_it_sees(config: dict[str, Any], device: str, headers: dict[str, Any]) -> None:
    answer = plan_host(question({"main": config}, found(9000.0, 8000.0, headers=headers)))
    [line] = answer["fitting"]
    assert device in line
    assert ("8,000" in line, "9,000" in line) == (True, config.get("gpus", "") is None)
    assert set(answer["plans"]["main"]["needs"]["gpus"]) >= {"GPU-1"}


def test_declared_memory_counts_where_it_is_less_and_where_nobody_tells(headers: dict[str, Any]) -> None:
    for tells, fits in (
        (found(headers=headers), True),
        (found(24_000.0, headers=headers), True),
        (found(100.0, headers=headers), False),
    ):
        answer = plan_host(question({"main": {}}, tells, gpu_memory=[8000.0]))
        assert bool(answer["fitting"]) == fits
        assert "8,000" in answer["fitting"][0] if fits else answer["refused"]
    answer = plan_host(question({"main": {}}, found(24_000.0, headers=headers), host_memory=300.0))
    assert "the host's memory is short by " in answer["refused"][0]


@pytest.mark.parametrize(
    ("free", "config", "said"),
    [
        ((), {}, "nobody tells the memory of its GPUs (there is no nvidia-smi); set llama_server_gpu_memory"),
        ((None,), {}, "(nvidia-smi does not tell the memory of a GPU); set llama_server_gpu_memory"),
        ((9000.0,), {"gpus": ["MIG-1"]}, "of GPU MIG-1; correct gpus, or set llama_server_gpu_memory"),
    ],
)  # fmt: skip
def test_gpus_that_nobody_tells_are_no_reason_to_refuse(
    free: tuple[float | None, ...], config: dict[str, Any], said: str, headers: dict[str, Any]
) -> None:
    answer = plan_host(question({"main": config}, found(*free, headers=headers)))
    assert answer["refused"] == []
    [line] = answer["warnings"]
    assert line.startswith("instance main on rig-1 can't be planned: ")
    assert line.endswith(said)
    assert answer["seen"] == ["main"]


def test_a_model_that_can_not_be_reached_is_planned_once_its_file_is_there(headers: dict[str, Any]) -> None:
    asked = question({"main": {}}, found(9000.0), file=MISSING)
    answer = plan_host(asked)
    [line] = answer["warnings"]
    assert "http://127.0.0.1:9/m.gguf can't be read" in line
    assert line.endswith("it is planned from the file, once that is there")
    assert answer["seen"] == []
    answer = plan_host(question({"main": {}}, found(9000.0, headers=headers)))
    assert (len(answer["fitting"]), answer["seen"]) == (1, ["main"])


def test_a_model_that_is_written_on_the_spot_is_no_warning() -> None:
    asked = question({"main": {}}, found(9000.0), file=MISSING)
    asked.planned["profiles"]["m"] = {"generator": "tiny"}
    answer = plan_host(asked)
    assert (answer["warnings"], answer["notes"]) == (
        [],
        ["instance main on rig-1 is planned once its model is written"],
    )


def test_the_controllers_own_copy_is_read_where_there_is_one(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", MODELS["qwen3moe"])
    assert plan_host(question({"main": {}}, found(9000.0), file=MISSING, cache=str(tmp_path)))["fitting"]


def test_a_damaged_file_is_named(headers: dict[str, Any]) -> None:
    tells = found(9000.0, headers={PATH: {"problem": f"{PATH} is truncated: …; copy or download it again"}})
    [line] = plan_host(question({"main": {}}, tells))["warnings"]
    assert line == f"instance main on rig-1 can't be planned: {PATH} is truncated: …; copy or download it again"


def test_what_was_said_before_is_not_said_again(headers: dict[str, Any]) -> None:
    answer = plan_host(question({"main": {}}, found(9000.0, headers=headers), seen=["main"]))
    assert (answer["fitting"], list(answer["plans"])) == ([], ["main"])


def test_a_host_is_asked_for_what_it_has_or_has_at_hand() -> None:
    profiles: dict[str, Any] = {
        "there": {"repo": "a/b", "file": "c.gguf"},
        "own": {"path": "/srv/own.gguf"},
        "mounted": {"url": "file:///srv/with%20space.gguf"},
        "hub": {"repo": "a/b", "files": [{"file": "d-00001-of-00002.gguf"}, {"file": "d-00002-of-00002.gguf"}]},
    }
    files = {"there": THERE, "own": MISSING, "mounted": MISSING, "hub": MISSING}
    paths = {"there": PATH, "own": "/srv/own.gguf", "mounted": "/srv/with space.gguf"}
    assert paths_on_host({"profiles": profiles}, files, "") == paths
    mirrored = paths_on_host({"profiles": profiles}, files, "file:///mnt/hub/")
    assert mirrored == {**paths, "hub": "/mnt/hub/a/b/d-00001-of-00002.gguf"}


def test_options_are_told_as_the_inventory_has_them() -> None:
    assert in_words(("-c", "4096")) == "ctx_size: 4096"
    assert in_words(("-ctk", "q8_0", "-ctv", "q8_0")) == "cache_type_k: q8_0 and cache_type_v: q8_0"
    assert in_words(("--n-cpu-moe", "3")) == "n_cpu_moe: 3"
