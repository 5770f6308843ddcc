"""Plans of memory in deployments: what is refused before it is fetched or restarted, and the proof beside the plan.

By real Ansible, with the GPUs of tests/fakes and real llama-servers.
"""

from __future__ import annotations

import getpass
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.model_store import tiny_model
from tests.conftest import ansible, changed, free_port, one_thread, said, server_of
from tests.fakes.gpus import FakeGpus, Gpu
from tests.memory_model_list import MODELS
from tests.memory_models import write
from tests.roles.file_server import FileServer, Served, serve

Instances = dict[str, dict[str, Any]]
LARGE = 2_000_000  # tokens of context, which fit no GPU of these tests


@dataclass
class Rig:
    """A prefix of this machine, which seems to have GPUs."""

    prefix: Path
    gpus: FakeGpus
    variables: dict[str, Any] = field(default_factory=dict)

    def play(self, playbook: str, instances: Instances, *options: str, check: bool = True, **variables: Any) -> str:
        """Run a playbook; what Ansible printed."""
        given = {
            "llama_nexus_prefix": str(self.prefix), "llama_server_user": getpass.getuser(),
            "llama_server_instances": one_thread(instances), **self.variables, **variables,
        }  # fmt: skip
        done = ansible(
            playbook, "-l", "local", "-e", json.dumps(given), *options, check=check, PATH=self.gpus.environment["PATH"],
            COLUMNS="80",
        )  # fmt: skip
        return done.stdout

    def serve(self, instances: Instances, *options: str, check: bool = True, **variables: Any) -> str:
        return self.play("tests/roles/llama_server.yml", instances, *options, check=check, **variables)

    def occupy(self, *mib: int) -> None:
        """Let others hold so much of the GPUs."""
        gpus = [replace(gpu, occupied_mib=one) for gpu, one in zip(self.gpus.gpus, mib, strict=True)]
        FakeGpus.make(self.gpus.folder, self.gpus.built, gpus)

    def pid(self, name: str) -> int:
        return server_of(self.prefix / "instances" / name)


def of_file(path: Path) -> dict[str, Any]:
    """The fact of role gguf_model about a file."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"path": str(path), "size_bytes": path.stat().st_size, "sha256": digest}


def one_line(text: str) -> str:
    return " ".join(text.split())


# ---- Before a download


@pytest.fixture
def bare(tmp_path: Path) -> Rig:
    """A rig with nvidia-smi and a GPU of 1000 MiB, on which nothing can run; it has a release by its name."""
    release = {"name": "b1-cuda89-x", "path": "/nowhere", "manifest": {"inputs": {"backend": "cuda"}, "flags": {}}}
    made = Rig(tmp_path / "prefix", FakeGpus.make(tmp_path / "gpus", None, [Gpu(memory_mib=1000)]))
    made.variables = {"llama_cpp_release": release}
    return made


@pytest.fixture
def served(bare: Rig, content: bytes) -> Iterator[FileServer]:
    """The model of the rig, on a server that gives ranges."""
    with serve() as files:
        files.files["/m.gguf"] = Served(content)
        digest = hashlib.sha256(content).hexdigest()
        bare.variables["llama_models"] = {"m": {"url": f"{files.url}/m.gguf", "sha256": digest}}
        yield files


def whole(files: FileServer) -> list[str | None]:
    """The requests that asked for a file as a download does, and not for a range of its header."""
    return [one.range for one in files.asked if one.range is None or not one.range.partition("-")[2]]


def too_large(**options: Any) -> Instances:
    return {"main": {"model": "m", "port": free_port(), "n_gpu_layers": 99, "ctx_size": LARGE, **options}}


@pytest.mark.parametrize("options", [(), ("--check",)], ids=["deployed", "checked"])
def test_what_does_not_fit_is_refused_before_it_is_downloaded(
    bare: Rig, served: FileServer, options: tuple[str, ...]
) -> None:
    output = bare.play("playbooks/model.yml", too_large(), *options, check=False)
    message = one_line(said(output))
    assert "instance main on localhost does not fit: CUDA0 (NVIDIA L4) is short by " in message
    assert "are needed (weights " in message
    assert " are free; it would with ctx_size: " in message
    assert "llama_server_allow_overcommit: true" in message
    assert served.asked
    assert whole(served) == []
    assert not list(bare.prefix.rglob("*.gguf*"))


@pytest.mark.parametrize("where", ["instance", "host"])
def test_it_is_fetched_all_the_same_where_that_is_allowed_visibly(bare: Rig, served: FileServer, where: str) -> None:
    instances = too_large(allow_overcommit=True) if where == "instance" else too_large()
    output = bare.play("playbooks/model.yml", instances, llama_server_allow_overcommit=where == "host")
    assert "WARNING]: instance main on localhost does not fit: CUDA0" in one_line(output)
    assert "deployed all the same, as llama_server_allow_overcommit says" in one_line(output)
    assert whole(served)
    assert (bare.prefix / "models/m.gguf").is_file()


def test_memory_that_is_declared_counts_and_a_model_alone_is_fetched_without_a_plan(
    bare: Rig, served: FileServer
) -> None:
    instances = too_large(ctx_size=512)
    output = bare.play("playbooks/model.yml", instances, "--check", check=False, llama_server_gpu_memory=[500])
    assert "500 are free" in one_line(said(output))
    del bare.variables["llama_cpp_release"]  # it is not to be served
    bare.play("playbooks/model.yml", too_large(), "-e", "fetch_models=m")
    assert (bare.prefix / "models/m.gguf").is_file()


def test_a_model_out_of_reach_is_said_not_to_be_planned_and_planned_from_the_file(bare: Rig, content: bytes) -> None:
    with serve() as files:  # it gives no ranges, so its header can't be read alone
        files.files["/m.gguf"] = Served(content, ranges=False)
        digest = hashlib.sha256(content).hexdigest()
        bare.variables["llama_models"] = {"m": {"url": f"{files.url}/m.gguf", "sha256": digest}}
        output = bare.play("playbooks/model.yml", too_large())
    assert "instance main on localhost can't be planned: " in one_line(output)
    assert "is on a server that gives no ranges" in one_line(output)
    assert "it is planned from the file, once that is there" in one_line(output)
    assert (bare.prefix / "models/m.gguf").is_file()


# ---- Before a restart


@pytest.fixture(scope="module")
def rig(release: Path, gpu_backend: Path, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Two GPUs, a release for them, and a model that is served; ``main`` runs on the first."""
    folder = tmp_path_factory.mktemp("rig")
    gpus = FakeGpus.make(folder / "gpus", gpu_backend, [Gpu(memory_mib=3000), Gpu(memory_mib=2000)])
    built = gpus.release(folder / "prefix", release)
    manifest = json.loads((built / "manifest.json").read_text())
    manifest["inputs"]["backend"] = "cpu"  # else the launcher waits for the nodes of NVIDIA's driver
    unknown = replace(MODELS["qwen3"], architecture="marvellous")
    path = str(write(folder / "u.gguf", unknown))
    # Heads of 64, for which CUDA has FlashAttention.
    tiny_model.write(folder / "s.gguf", shape=tiny_model.Shape(n_layer=4, n_embd=128, n_head=2, n_head_kv=1, n_ff=384))
    files = {"small": of_file(folder / "s.gguf"), "unknown": {"path": path, "size_bytes": 1, "sha256": "0" * 64}}
    made = Rig(folder / "prefix", gpus)
    made.variables = {
        "llama_cpp_release": {"name": built.name, "path": str(built), "manifest": manifest},
        "llama_models": {name: {"path": file["path"]} for name, file in files.items()},
        "gguf_model_files": files,
    }
    yield made
    ansible("playbooks/stop.yml", "-l", "local", "-e", f"llama_nexus_prefix={made.prefix}")


@pytest.fixture(scope="module")
def first(rig: Rig) -> dict[str, Any]:
    """The instance ``main``, deployed: what Ansible printed, and what was declared."""
    main = {"model": "small", "port": free_port(), "n_gpu_layers": 99, "gpus": ["0"], "ctx_size": 2048, "parallel": 1}
    return {"main": main, "output": rig.serve({"main": main})}


def test_the_proof_shows_the_plan_beside_what_runs(rig: Rig, first: dict[str, Any]) -> None:
    lines = first["output"].splitlines()
    [head] = [number for number, line in enumerate(lines) if "planned  measured" in line]
    rows = [line.split() for line in lines[head + 1 : head + 5]]
    assert [row[-3] for row in rows[:3]] == ["weights", "KV", "compute"]
    assert rows[0][0] == "CUDA0"
    assert all(row[-2] == row[-1] for row in rows), rows  # to the hundredth
    assert max(len(line) for line in lines[head : head + 6]) <= 80
    proof = json.loads((rig.prefix / "instances/main/proof.json").read_text())
    assert proof["memory"][0]["plan_mib"] == proof["memory"][0]["measured_mib"] > 0


def test_what_runs_on_is_proven_against_the_plan_that_it_was_deployed_with(rig: Rig, first: dict[str, Any]) -> None:
    again = rig.serve({"main": first["main"]})
    assert changed(again) == 0
    assert "planned  measured" in again
    assert "Plan the memory of what is to start" not in again  # nothing is asked or planned for what stays


def test_what_does_not_fit_is_refused_before_anything_is_restarted(rig: Rig, first: dict[str, Any]) -> None:
    pid, state = rig.pid("main"), (rig.prefix / "instances/main/state.json").read_text()
    for options in ((), ("--check",)):
        larger = {"main": {**first["main"], "ctx_size": LARGE}}
        message = one_line(said(rig.serve(larger, *options, check=False)))
        assert "instance main on localhost does not fit: CUDA0 (NVIDIA L4) is short by " in message
    assert rig.pid("main") == pid
    assert (rig.prefix / "instances/main/state.json").read_text() == state


def test_several_instances_of_a_gpu_are_added_with_what_runs_there(rig: Rig, first: dict[str, Any]) -> None:
    pid = rig.pid("main")
    more = {**first["main"], "ctx_size": 400_000}  # each alone has room
    instances = {"main": first["main"], **{name: {**more, "port": free_port()} for name in ("b", "c")}}
    rig.serve({name: instances[name] for name in ("main", "b")}, "--check")
    message = one_line(said(rig.serve(instances, check=False)))
    assert "instance c on localhost does not fit beside b: CUDA0 (NVIDIA L4) is short by " in message
    assert (rig.pid("main"), list((rig.prefix / "instances").glob("[bc]"))) == (pid, [])


def test_a_trial_is_made_where_the_plan_has_room_beside_the_old_server(rig: Rig, first: dict[str, Any]) -> None:
    beside = rig.serve({"main": {**first["main"], "ctx_size": 3072}})
    assert "proven on a side port first" in one_line(beside)
    # Others take memory: there is room for one, and the old one gives its own back.
    rig.occupy(2200, 0)
    try:
        alone = rig.serve({"main": {**first["main"], "ctx_size": 2048}})
    finally:
        rig.occupy(0, 0)
    assert "main: changed and verified" in alone
    assert "proven on a side port first" not in one_line(alone)


def test_what_the_rules_do_not_cover_is_named_and_goes_on(rig: Rig, first: dict[str, Any]) -> None:
    other = {**first["main"], "model": "unknown", "port": free_port()}
    output = one_line(rig.serve({"main": first["main"], "other": other}, "--check"))
    assert "instance other on localhost can't be planned: " in output
    assert "marvellous" in output
    assert "other: would change" in output


def test_without_the_project_s_packages_that_is_said_and_nothing_is_refused(
    rig: Rig, first: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nexus_tasks").mkdir()
    (tmp_path / "nexus_tasks/__init__.py").write_text("raise ModuleNotFoundError('no nexus_tasks here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    output = one_line(rig.serve({"main": {**first["main"], "ctx_size": LARGE}}, "--check"))
    assert "memory is not planned, and nothing is refused for it: " in output
    assert "(no nexus_tasks here): start it from .venv/bin" in output
