"""The check for a machine with a real GPU, as far as it goes without one: prepared, then run without a network."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.hostlib.files import sha256_of
from plugins.module_utils.llama_cpp.recipe import release_name
from plugins.module_utils.nvidia import facts as nvidia_facts
from tests.conftest import ROOT, cache_folder
from tests.fakes.fixtures import MakeGpus
from tests.fakes.gpus import Gpu
from tests.gpu import check, pack, rows, toolkit
from tests.gpu.steps.speed import UNKNOWN
from tests.integration.test_telemetry import build_newer_nvml

# A machine of its own as far as the check sees: no network but loopback, and with $1 = nodes those of a driver in /dev,
# for which the launcher of a server waits.
ALONE = """\
set -e
ip link set lo up
if [ "$1" = nodes ]; then
    mount -t tmpfs none "$2"
    for name in null zero full random urandom; do
        : >"$2/$name"
        mount --bind "/dev/$name" "$2/$name"
    done
    mkdir "$2/shm" "$2/pts"
    mount --rbind /dev/shm "$2/shm"
    mount --rbind /dev/pts "$2/pts"
    ln -s pts/ptmx "$2/ptmx"
    ln -s /proc/self/fd "$2/fd"
    : >"$2/nvidiactl"
    : >"$2/nvidia-uvm"
    mount --rbind "$2" /dev
fi
shift 2
exec "$@"
"""
VERSION = ".".join(platform.python_version_tuple()[:2])


@pytest.fixture(scope="module")
def packed(release: Path) -> Path:
    """What is prepared for a machine like this one, kept in the cache under a hash of what it is made of."""
    made_of = hashlib.sha256(release.name.encode())
    for path in (Path(pack.__file__), ROOT / "requirements.lock", ROOT / "roles/host_tools/files/build.txt"):
        made_of.update(path.read_bytes())
    folder = cache_folder() / f"gpu-check-{VERSION}-{made_of.hexdigest()[:12]}"
    with (cache_folder() / "gpu-check.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            for old in cache_folder().glob(f"gpu-check-{VERSION}-*"):
                shutil.rmtree(old)
            pack.make(folder, [VERSION])
    return folder


def run_check(
    packed: Path, folder: Path, *arguments: str, nodes: bool = False, **environment: str
) -> tuple[int, dict[str, Any], str]:
    """Run the check without a network: its status, its rows by check, and what it printed."""
    command: list[str | Path] = [ROOT / "tests/gpu/check.sh", "--pack", packed, "--work", folder / "work"]
    command += ["--results", folder / "results", "--small", "--seconds", "5700", *arguments]
    if os.geteuid() == 0:
        (folder / "dev").mkdir(exist_ok=True)
        alone: list[str | Path] = ["unshare", "--net", "--mount", "sh", "-c", ALONE, "sh"]
        command = [*alone, "nodes" if nodes else "none", folder / "dev", *command]
    done = subprocess.run(
        command, cwd="/", env={**os.environ, "NEXUS_PYTHON": sys.executable, **environment}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    written = json.loads((folder / "results/results.json").read_text())
    assert written["status"] == done.returncode, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, {f"{row['step']}: {row['check']}": row for row in written["rows"]}, done.stdout


def test_what_is_prepared_is_small_and_names_itself(packed: Path) -> None:
    said = json.loads((packed / "pack.json").read_text())
    assert said["commit"] in (ROOT / "roles/llama_cpp/defaults/main.yml").read_text()
    assert said["pythons"] == [VERSION]
    assert sum(path.stat().st_size for path in packed.iterdir()) < pack.MOST_MIB << 20


def test_without_a_gpu_and_a_network_it_builds_and_says_what_could_not_be_run(packed: Path, tmp_path: Path) -> None:
    status, found, said = run_check(packed, tmp_path, "--only", "machine", "driver", "nvidia-smi", "nvml", "build")
    assert status == 3, said
    assert found["machine: GPU"]["verdict"] == rows.NOT_RUN
    assert found["nvidia-smi: all of it"]["found"] == "there is no nvidia-smi here"
    assert found["build: release"]["verdict"] == rows.OK
    assert "-cpu-" in found["build: release"]["found"]
    assert {path.name for path in (tmp_path / "results").iterdir()} == {
        "table.txt", "results.json", "check.log", "details.tar.gz"
    }  # fmt: skip
    assert (tmp_path / "results/table.txt").read_text() in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make /dev look like that of a machine with a driver")
def test_with_a_gpu_every_step_comes_to_its_end(
    packed: Path, make_gpus: MakeGpus, release: Path, tmp_path: Path
) -> None:
    (tmp_path / "nvml").mkdir()
    build_newer_nvml(tmp_path / "nvml")
    gpus = make_gpus(
        Gpu("Test GPU 0", "8.9", 24576), Gpu("Test GPU 1", "8.9", 24576), arithmetic="none", driver_version="580.65.06"
    )
    install(gpus.release(tmp_path / "made", release, next(iter(nvidia_facts.toolkits()), None)), packed, tmp_path)
    environment = {"PATH": gpus.environment["PATH"], "LD_LIBRARY_PATH": str(tmp_path / "nvml")}
    status, found, said = run_check(packed, tmp_path, nodes=True, **environment)
    # What this machine can't have, and what the second GPU does not tell.
    assert {name for name, row in found.items() if row["verdict"] != rows.OK} - {
        "machine: its chip by the bus is the driver's", "machine: kernel module",
        "machine: a CUDA toolkit that fits",
    } == {
        "build: CUDA libraries that it brings", "nvml: GPU 1: power_w", "nvml: GPU 1: energy_j",
        "nvml: GPU 1: temperature_c", "nvml: the counter of energy counts",
    }, said  # fmt: skip
    assert {row["step"] for row in found.values()} == {check.ENVIRONMENT, *(step.name for step in check.STEPS)}
    assert found["deploy: proof: layers on the GPU"]["found"] == "5/5"
    assert "layers on the GPU: expected all, found none" in found["refusals: refused: no GPU visible"]["found"]
    shares = [found[f"speed: served / raw, {name}"]["found"] for name in ("decode_tps", "prefill_tps")]
    assert all(share == UNKNOWN or float(share) > 0 for share in shares), shares
    # Started again, nothing is left to find out but what could not be, or was not as it should: CUDA's libraries.
    again, _, said = run_check(packed, tmp_path, nodes=True, **environment)
    assert again == status
    assert not re.search(r"^[\d:]+ (environment|model|speed|refusals) ", said, re.MULTILINE)


def install(made: Path, packed: Path, folder: Path) -> None:
    """Put a release where the check's own build would put it, under the name that it would have."""
    manifest = json.loads((made / "manifest.json").read_text())
    archive = packed / "llama.cpp.tar.xz"
    manifest["inputs"] |= {
        "source": {"kind": "archive", "sha256": sha256_of(str(archive)), "url": str(archive)},
        "fa_quants": ["f16-f16"],
    }
    path = folder / "work/prefix/releases" / release_name(manifest["inputs"])
    shutil.copytree(made, path, symlinks=True)
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_what_was_not_prepared_for_this_tree_is_refused_in_one_line(packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed, tmp_path / "other")
    said = json.loads((packed / "pack.json").read_text())
    for change, expected in (
        ({"commit": "0" * 40}, "the role names another commit: run tests/gpu/check.sh --prepare"),
        ({"pythons": ["3.9"]}, f"is Python {VERSION}, and packages were prepared for 3.9: prepare with --python"),
        ({"machine": "riscv64"}, "was prepared for riscv64, and this is"),
        ({"files": {"llama.cpp.tar.xz": {"sha256": "0"}}}, "is not what was prepared"),
    ):
        (tmp_path / "other/pack.json").write_text(json.dumps({**said, **change}))
        status, found, printed = run_check(tmp_path / "other", tmp_path)
        assert status == 3
        assert expected in found["environment: all of it"]["found"], printed
        assert found["build: all of it"]["found"] == "there is no environment to run it in"


def test_time_that_runs_out_costs_the_rest_and_nothing_else(packed: Path, tmp_path: Path) -> None:
    status, found, _ = run_check(packed, tmp_path, "--seconds", "26")
    assert status == 3
    assert found["environment: Python environment"]["verdict"] == rows.OK
    assert "s were left, and it needs 60: start it again" in found["build: all of it"]["found"]


def test_a_toolkit_in_several_places_is_made_one_that_the_build_can_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cuda/include/cuda_runtime.h", "cuda/lib64/libcudart.so.13", "driver/libcuda.so.1",
                 "site/nvidia/cu13/include/cublas_v2.h", "site/nvidia/cu13/lib/libcublas.so.13"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "cuda/bin").mkdir()
    real, wrapper = tmp_path / "cuda/bin/nvcc", tmp_path / "nvcc"
    real.write_text(f'#!/bin/sh\necho "#\\$ TOP={tmp_path}/cuda/bin/.." >&2\n')
    wrapper.write_text(f'#!/bin/sh\nexec {real} "$@"\n')
    for program in (real, wrapper):
        program.chmod(0o755)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "driver"))
    root = toolkit.root_of(str(wrapper))
    assert root == tmp_path / "cuda"
    assert not toolkit.is_whole(str(wrapper), root)
    made = tmp_path / "made"
    assert toolkit.complete(made, str(wrapper), root, []) == ["cublas_v2.h", "libcublas.so"]
    assert toolkit.complete(made, str(wrapper), root, [str(tmp_path / "site")]) == []
    assert toolkit.root_of(str(made / "bin/nvcc")) == root
    for name in ("include/cuda_runtime.h", "include/cublas_v2.h", "lib64/libcudart.so", "lib64/libcublas.so"):
        assert (made / name).exists()
    assert toolkit.is_whole(str(made / "bin/nvcc"), made)
