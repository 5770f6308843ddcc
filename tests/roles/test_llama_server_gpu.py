"""The proof of what lies on GPUs, with the GPUs of tests/fakes and real llama-servers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.hostlib.instances import Instance, Release
from plugins.module_utils.llama_server.commands import run
from plugins.module_utils.llama_server.errors import HostError
from plugins.module_utils.llama_server.plan import plan
from plugins.module_utils.llama_server.runtimes.images import have_image
from plugins.module_utils.llama_server.trial import has_room_for_both
from tests.bed import Bed
from tests.fakes import tiny_mmproj, tiny_moe
from tests.fakes.fixtures import MakeGpus
from tests.fakes.gpus import FakeGpus, Gpu
from tests.roles.machine import Machine, Row, deploy


@pytest.fixture
def gpus(make_gpus: MakeGpus, monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    """Two GPUs of this machine."""
    made = make_gpus(Gpu(), Gpu())
    monkeypatch.setenv("PATH", made.environment["PATH"])
    return made


def on_gpus(machine: Machine, fakes: FakeGpus, *arguments: str, **config: Any) -> Row:
    """An instance with all its layers on the GPUs."""
    environment = {"GGML_BACKEND_PATH": str(fakes.library), **config.pop("environment", {})}
    offloaded = ["--n-gpu-layers", "99", "--device", fakes.devices] if not config.get("models") else []
    config = {"n_gpu_layers": 99, "uses_gpu": True, "environment": environment, **config}
    return machine.instance("main", *offloaded, *arguments, **config)


def found(row: Row) -> dict[str, Any]:
    return {check["check"]: check["found"] for check in row["checks"]}


def test_a_model_that_is_split_is_proven_to_be_on_both_gpus(machine: Machine, gpus: FakeGpus) -> None:
    [row] = deploy(machine.declaring(on_gpus(machine, gpus, "--ctx-size", "512", "--tensor-split", "1,3")))
    assert row["error"] is None
    assert found(row)["layers on the GPU"] == "13/13"
    assert row["buffers_mib"]["CUDA1"]["model"] >= 2 * row["buffers_mib"]["CUDA0"]["model"] > 0
    assert set(row["gpu_processes_mib"]) == set(gpus.uuids)


@pytest.mark.parametrize("processes", ["without-memory", "hidden"])
def test_where_the_driver_reports_no_memory_the_log_has_to_do(machine: Machine, gpus: FakeGpus, processes: str) -> None:
    gpus.set(processes=processes)
    [row] = deploy(machine.declaring(on_gpus(machine, gpus, "--ctx-size", "512")))
    assert row["error"] is None
    [noted] = [check for check in row["checks"] if check["check"] == "process on the GPU"]
    assert (noted["found"], row["gpu_processes_mib"]) == ("not to be seen", None)
    assert "what the log says of buffers has to do" in noted["cause"]


def test_experts_that_nobody_put_on_the_processor_are_found_there(
    machine: Machine, gpus: FakeGpus, moe_model: Path
) -> None:
    machine = Machine(machine.folder, machine.release, moe_model)
    # Every layer counts as offloaded, and the health is green, all the same.
    moved = {"LLAMA_ARG_N_CPU_MOE": "4"}
    [row] = deploy(machine.declaring(on_gpus(machine, gpus, "--ctx-size", "512", environment=moved)))
    assert found(row)["layers on the GPU"] == "7/7"
    assert row["error"].startswith("weights in host memory: expected at most ")
    assert "the server put them on the processor to make the rest fit" in row["error"]
    assert row["state"] == "failed"

    [row] = deploy(machine.declaring(on_gpus(machine, gpus, "--ctx-size", "512", "--n-cpu-moe", "4")))
    assert row["error"] is None
    note = next(check["cause"] for check in row["checks"] if check["check"] == "weights in host memory")
    assert note == "declared by --n-cpu-moe: many times slower than on the GPU"
    assert row["buffers_mib"]["CPU_Mapped"]["model"] > 4 * tiny_moe.EXPERTS_MIB


def test_a_draft_and_a_projector_are_proven_with_the_model(machine: Machine, gpus: FakeGpus) -> None:
    path = machine.folder / "mmproj.gguf"
    tiny_mmproj.write(path)
    draft = {"name": "draft", **machine.model}
    projector = {"name": "projector", "path": str(path), "size_bytes": path.stat().st_size, "sha256": ""}
    arguments = ["--ctx-size", "512", "--mmproj", str(path), "--device-draft", "CUDA1", "--n-gpu-layers-draft", "99"]
    arguments += ["--model-draft", machine.model["path"], "--spec-type", "draft-simple"]
    [row] = deploy(machine.declaring(on_gpus(machine, gpus, *arguments, side_models=[draft, projector])))
    assert row["error"] is None
    assert found(row)["projector"] == "CUDA0"
    # The input tensors of both models are in host memory, and nothing else of them.
    assert float(found(row)["weights in host memory"].split()[0]) < 2


def test_the_models_of_a_router_are_proven_to_be_on_the_gpu(machine: Machine, gpus: FakeGpus) -> None:
    model = {
        **machine.model,
        "side_models": [],
        "mode": "completion",
        "n_gpu_layers": 99,
        "uses_gpu": True,
        "load_on_startup": True,
    }
    section = f"[chat]\nmodel = {machine.model['path']}\nctx-size = 512\nn-gpu-layers = "
    declared = {"mode": "router", "model": None, "models": {"chat": model}}

    def router(layers: int) -> Row:
        files = {"models.ini": f"{section}{layers}\ndevice = CUDA0\n"}
        return on_gpus(machine, gpus, "--models-preset", "@models.ini", files=files, **declared)

    [row] = deploy(machine.declaring(router(99)))
    assert row["error"] is None
    assert found(row)["chat layers on the GPU"] == "13/13"
    assert row["gpu_processes_mib"][gpus.uuids[0]] > 70  # of the process that the router started

    [row] = deploy(machine.declaring(router(5)))
    assert row["error"].startswith("chat layers on the GPU: expected 13/13, found 5/13")
    assert row["restored"]["error"] is None


def test_a_trial_needs_room_on_the_gpus_that_the_instance_may_use(
    machine: Machine, make_gpus: MakeGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = make_gpus(Gpu(memory_mib=2000, occupied_mib=1900), Gpu(memory_mib=24000))
    monkeypatch.setenv("PATH", gpus.environment["PATH"])
    folder = machine.declaring().folder("main")

    def room(gpus_mib: dict[str, float], host_mib: float = 100.0) -> bool:
        needs = {"gpus": gpus_mib, "host": host_mib}
        return has_room_for_both(Instance.from_json(on_gpus(machine, gpus)["config"]), folder, needs)

    first, second = gpus.uuids
    assert (room({second: 23000.0}), room({"1": 23000.0}), room({first: 90.0, second: 23000.0})) == (True, True, True)
    # What is free on one of them is of no use to the other.
    assert (room({first: 733.0}), room({"0": 733.0}), room({second: 24100.0})) == (False, False, False)
    assert not room({second: 100.0}, host_mib=1e9)


def test_where_nothing_could_be_planned_a_trial_needs_what_the_same_model_was_measured_to_hold(
    machine: Machine, gpus: FakeGpus
) -> None:
    instance = on_gpus(machine, gpus, "--ctx-size", "512")
    config, host = Instance.from_json(instance["config"]), machine.declaring(instance)
    assert not has_room_for_both(config, host.folder("main"), None)
    [row] = deploy(host)
    assert row["error"] is None
    assert has_room_for_both(config, host.folder("main"), None)
    other = replace(config, model=replace(config.model, sha256="0")) if config.model else config
    assert not has_room_for_both(other, host.folder("main"), None)


def test_a_gpu_that_is_declared_away_is_not_asked_for(machine: Machine, gpus: FakeGpus) -> None:
    instance = on_gpus(machine, gpus, "--ctx-size", "512", uses_gpu=False)
    argv = instance["config"]["argv"]
    argv[argv.index("--device") + 1] = "none"
    host = machine.declaring(instance)
    [row] = deploy(host)
    assert (row["error"], "layers on the GPU" in found(row)) == (None, False)
    assert [row["changed"] for row in plan(host)] == [False]


@pytest.fixture
def linked_with(tmp_path: Path, bed: Bed) -> Iterator[Any]:
    """Makes a release whose program is linked with a library that is not there, for an image on the bed's base."""
    configs = []

    def make(library: str) -> Instance:
        path = tmp_path / library
        (path / "bin").mkdir(parents=True)
        (tmp_path / "empty.c").write_text("int nothing(void) { return 0; }\n")
        (tmp_path / "main.c").write_text("int nothing(void);\nint main(void) { return nothing(); }\n")
        stub = tmp_path / library
        named = ["-shared", f"-Wl,-soname,{library}"]
        subprocess.run(["cc", *named, "-o", stub / "stub", tmp_path / "empty.c"], check=True)
        subprocess.run(["cc", "-o", path / "bin/llama-server", tmp_path / "main.c", stub / "stub"], check=True)
        config = Instance(image={"base": bed.image("base")}, release=Release(name="linked", path=str(path)))
        configs.append(config)
        return config

    yield make
    for config in configs:
        made_here = f"label=llama-nexus.path={config.release.path}"
        run("docker", "image", "prune", "--all", "--force", "--filter", made_here)


def test_an_image_may_lack_the_driver_s_library_and_no_other(linked_with: Any) -> None:
    assert have_image(linked_with("libcuda.so.1")).startswith("llama-nexus/llama-server:linked-")
    with pytest.raises(HostError, match=r"the base image lacks\s+libother\.so\.1 => not found"):
        have_image(linked_with("libother.so.1"))
