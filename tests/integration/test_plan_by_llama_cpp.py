"""Plans by llama.cpp's own tool: a real release, on GPUs that are not there, here and on a host."""

from __future__ import annotations

import csv
import getpass
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from nexus_tasks.fleet import fit_tools
from nexus_tasks.model_store.cross_check import Checked, cross_check
from nexus_tasks.model_store.memory import Gpu as Device
from nexus_tasks.model_store.planning import Planning
from tests.conftest import ROOT
from tests.fakes.fixtures import MakeGpus
from tests.fakes.gpus import Gpu
from tests.memory_model_list import MODELS
from tests.memory_models import write

LARGE = 98304
WITH_GPUS = "tests/memory_truth/b11312.csv"
Check = Callable[[str, str, int], Checked]


def truth() -> list[dict[str, str]]:
    with (ROOT / WITH_GPUS).open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("models")

    def model(name: str) -> Path:
        path = folder / f"{name}.gguf"
        return path if path.exists() else write(path, MODELS[name])

    return model


def checked(release: Path, model: Path, options: str, gpus: Sequence[float]) -> Checked:
    devices = [Device(f"CUDA{number}", free) for number, free in enumerate(gpus)]
    asked = Planning.of(str(model), options.split(), devices, catalogue={})
    return cross_check(asked, fit_tools.here(asked, release))


def compare(row: dict[str, str], made: Checked) -> None:
    *cards, host = made.plan.devices
    for figure in ("weights", "kv"):
        for found, wanted in (
            (sum(getattr(card, f"{figure}_mib") for card in cards), float(row[figure])),
            (getattr(host, f"{figure}_mib"), float(row[f"{figure}_host"])),
        ):
            assert abs(found - wanted) <= len(cards), (row, figure)  # each device's is rounded down
    assert made.differences == (), row


@pytest.fixture
def gpu_release(make_gpus: MakeGpus, release: Path, tmp_path: Path) -> Callable[[int], Path]:
    def make(count: int) -> Path:
        return make_gpus(*[Gpu(memory_mib=LARGE)] * count).release(tmp_path / str(count), release)

    return make


@pytest.mark.parametrize(
    "step", [pytest.param(1, marks=pytest.mark.soak), 16], ids=["every row of the table", "some rows of the table"]
)
def test_weights_and_caches_are_those_of_the_table(
    step: int, gpu_release: Callable[[int], Path], models: Callable[[str], Path]
) -> None:
    rows = truth()[::step]
    for count in sorted({int(row["gpus"]) for row in rows}):
        release = gpu_release(count)
        for row in (row for row in rows if int(row["gpus"]) == count):
            compare(row, checked(release, models(row["model"]), row["options"], [LARGE] * count))


def plan(*words: str, **variables: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "nexus_tasks.plan", *words],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **variables},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_command_shows_both_and_serves_what_the_rules_do_not_cover(
    gpu_release: Callable[[int], Path], models: Callable[[str], Path], tmp_path: Path
) -> None:
    release, model = gpu_release(2), models("qwen3moe")
    words = ["--engine", "llama.cpp", "--release", str(release), "--gpus", "24576,16384", "-c", "8192", "--json"]
    status, out, err = plan(str(model), *words)
    assert status == 0, err
    told: dict[str, Any] = json.loads(out)
    assert (told["engine"], told["differences"], told["verdict"]) == ("llama.cpp", [], "fits")
    for ours, theirs in zip(told["analytic"], told["devices"], strict=True):
        assert ours["name"] == theirs["name"]
        assert 0 <= ours["weights_mib"] - theirs["weights_mib"] < 1
        assert theirs["compute_mib"] >= ours["compute_mib"] - 1
    # llama.cpp has more architectures than there are rules.
    other = write(tmp_path / "other.gguf", replace(MODELS["mistral3"], architecture="xverse"))
    status, _, err = plan(str(other), "-c", "8192", "--gpus", "24576")
    assert (status, "don't cover architecture xverse" in err) == (1, True)
    status, out, err = plan(str(other), *words)
    assert status == 0, err
    assert json.loads(out)["analytic"] is None
    assert json.loads(out)["devices"][0]["kv_mib"] > 1


def test_a_release_without_gpus_and_none_at_all_are_told(
    release: Path, models: Callable[[str], Path], tmp_path: Path
) -> None:
    model = str(models("qwen3moe"))
    words = [model, "--engine", "llama.cpp", "--release"]
    status, _, err = plan(*words, str(release), "--gpus", "24576")
    assert (status, "llama.cpp sees no GPU there, and --gpus names 1" in err) == (1, True)
    status, out, _ = plan(*words, str(release), "-c", "4096", "--json")
    assert (status, [device["name"] for device in json.loads(out)["devices"]]) == (0, ["host"])
    status, _, err = plan(*words, str(tmp_path))
    assert status == 1
    assert f"there is no {tmp_path}/bin/llama-fit-params" in err
    assert "Traceback" not in err


def test_a_host_is_asked_with_its_own_gpus(
    make_gpus: MakeGpus, release: Path, models: Callable[[str], Path], tmp_path: Path
) -> None:
    gpus = make_gpus(Gpu(memory_mib=24000, occupied_mib=4000))
    prefix = tmp_path / "prefix"
    gpus.release(prefix, release)
    host = {
        "ansible_connection": "local", "ansible_python_interpreter": sys.executable, "llama_nexus_prefix": str(prefix),
        "ansible_remote_tmp": str(tmp_path / "remote"),
        "llama_server_user": getpass.getuser(),  # the role's own may be there, and gets to no folder of pytest's
    }  # fmt: skip
    folder = tmp_path / "inventory"
    folder.mkdir()
    (folder / "group_vars").symlink_to(ROOT / "group_vars")
    groups = {"gpu-hosts": {"hosts": {"rig": host}}, "local": {"hosts": {"localhost": host}}}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))
    words = [str(models("qwen3moe")), "--engine", "llama.cpp", "-c", "8192", "--json", "--on"]
    known = {"NEXUS_INVENTORY": str(folder), **gpus.environment}
    status, out, err = plan(*words, "rig", **known)
    assert status == 0, err
    told = json.loads(out)
    assert told["differences"] == []
    assert 19000 < told["devices"][0]["free_mib"] <= 20000
    assert told["devices"][1]["free_mib"] > 500
    assert list(Path("/var/tmp").glob("llama-nexus-headers-*/0/model.gguf")) == []  # noqa: S108 - the role's own folder
