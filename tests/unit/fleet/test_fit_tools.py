"""llama-fit-params as it is found here, and asked for on hosts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.core.errors import DeployError, UsageError
from nexus_tasks.fleet import fit_tools, inventory
from nexus_tasks.hostlib.fit_params import Device
from nexus_tasks.model_store.memory import Gpu
from nexus_tasks.model_store.planning import Planning
from tests.memory_model_list import MODELS
from tests.memory_models import write


@pytest.fixture
def asked(tmp_path: Path) -> Planning:
    model = write(tmp_path / "m.gguf", MODELS["qwen3moe"])
    return Planning.of(str(model), ["-c", "4096"], [Gpu("CUDA0", 8000)], catalogue={})


def release(folder: Path, code: str) -> Path:
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / "llama-fit-params"
    program.write_text(f"#!{sys.executable}\nimport os, sys\n{code}\n")
    program.chmod(0o755)
    return folder


SHOWS_SIZE = 'print("CUDA0", os.path.getsize(sys.argv[5]), "2 3 \\nHost 4 5 6 ")'


def test_the_tool_sees_a_file_of_the_models_size(asked: Planning, tmp_path: Path) -> None:
    answer = fit_tools.here(asked, release(tmp_path / "b1", SHOWS_SIZE))
    assert answer.models[0][0] == Device("CUDA0", asked.shape.files[0].size_bytes, 2, 3)
    assert answer.host_free_mib is not None


def test_a_program_on_the_path_is_found(asked: Planning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = release(tmp_path / "b1", SHOWS_SIZE)
    monkeypatch.setenv("PATH", f"{made / 'bin'}:/usr/bin:/bin")
    assert fit_tools.here(asked, None).models[0][1] == Device("Host", 4, 5, 6)


def test_a_release_that_fails_is_named(asked: Planning, tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="b1: llama-fit-params gives no figures"):
        fit_tools.here(asked, release(tmp_path / "b1", "sys.exit(3)"))


def test_a_folder_without_it_is_named(asked: Planning, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"there is no {tmp_path}/bin/llama-fit-params"):
        fit_tools.here(asked, tmp_path)


def test_a_host_gets_headers_and_options(asked: Planning, monkeypatch: pytest.MonkeyPatch) -> None:
    brought: list[int] = []

    def answer(pattern: str, play: str, variable: str, variables: dict[str, Any]) -> Any:
        (model,) = variables["fit_models"]
        (file,) = model["files"]
        brought.append((Path(model["headers"]) / file["name"]).stat().st_size)
        assert file["size_bytes"] == asked.shape.files[0].size_bytes
        assert model["words"][:2] == ["-c", "4096"]
        devices = [["CUDA0", 1, 2, 3], ["Host", 4, 5, 6]]
        one = {"host": pattern, "models": [devices], "gpus_free_mib": [8000.0], "host_free_mib": None}
        return [one] * (2 if pattern == "both" else 1), {"rig-2": "no route"} if pattern == "rig-2" else {}

    monkeypatch.setattr(inventory, "answer", answer)
    found = fit_tools.on_host(asked, "rig-1")
    assert (found.models[0][0], found.gpus_free_mib) == (Device("CUDA0", 1, 2, 3), (8000,))
    assert brought == [asked.shape.files[0].data_start]
    with pytest.raises(DeployError, match="rig-2: no route"):
        fit_tools.on_host(asked, "rig-2")
    with pytest.raises(UsageError, match="--on both is 2 hosts"):
        fit_tools.on_host(asked, "both")
