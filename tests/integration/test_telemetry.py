"""Samples of this real machine, and of GPUs behind the real NVML bindings: a small library stands for the driver's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks import telemetry
from nexus_tasks.provenance import ROOT

PROGRAM = """
import json, sys, time
from nexus_tasks import telemetry
with telemetry.Gpus() as gpus:
    with telemetry.Sampler(gpus, interval_s=0.05, origin=time.perf_counter()) as sampler:
        time.sleep(0.2)
    json.dump({"gpus": gpus.as_rows(), "error": gpus.nvml_error, "samples": sampler.take()}, sys.stdout)
"""


@pytest.fixture
def nvml_dir(tmp_path: Path) -> Path:
    """A folder for the library, which the dynamic loader looks into first."""
    if shutil.which("cc") is None:
        pytest.fail("this test needs a C compiler named cc on the PATH: apt-get install gcc")
    return tmp_path


def build_nvml(folder: Path, *definitions: str) -> None:
    library = folder / "libnvidia-ml.so.1"
    source = ROOT / "tests/fakes/nvml.c"
    subprocess.run(["cc", "-shared", "-fPIC", *definitions, "-o", library, source], check=True)


def sample_with(folder: Path) -> dict[str, Any]:
    """What another process samples with the folder's library: the bindings keep theirs for a process's life."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=ROOT, check=True, capture_output=True, text=True
    )
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def test_two_gpus_are_named_and_sampled_and_what_one_lacks_is_null(nvml_dir: Path) -> None:
    build_nvml(nvml_dir)
    answer = sample_with(nvml_dir)
    assert answer["error"] is None
    assert answer["gpus"] == [
        {"index": 0, "name": "Test GPU 0", "driver": "580.65.06", "memory_total_mib": 24576},
        {"index": 1, "name": "Test GPU 1", "driver": "580.65.06", "memory_total_mib": 24576},
    ]
    assert len(answer["samples"]) >= 2
    assert all(
        sample["gpus"]
        == [
            {
                "index": 0, "utilization_percent": 97, "memory_used_mib": 1000, "power_w": 311.5,
                "temperature_c": 64,
            },
            {
                "index": 1, "utilization_percent": 97, "memory_used_mib": 1001, "power_w": None,
                "temperature_c": None,
            },
        ]
        for sample in answer["samples"]
    )  # fmt: skip


def test_a_gpu_that_fell_off_the_bus_hides_no_other(nvml_dir: Path) -> None:
    build_nvml(nvml_dir, "-DLOST")
    answer = sample_with(nvml_dir)
    assert [gpu["index"] for gpu in answer["gpus"]] == [1]
    assert [gpu["index"] for gpu in answer["samples"][0]["gpus"]] == [1]
    assert answer["error"] == "GPU 0 does not answer"


def test_a_driver_that_is_not_loaded_is_recorded_and_costs_nothing_else(nvml_dir: Path) -> None:
    build_nvml(nvml_dir, "-DINIT=DRIVER_NOT_LOADED")
    answer = sample_with(nvml_dir)
    assert (answer["gpus"], answer["error"]) == ([], "Driver Not Loaded")
    assert answer["samples"][0]["gpus"] == []
    assert answer["samples"][0]["memory_used_mib"] > 0


def test_a_machine_without_the_library_has_no_gpus_and_says_why(tmp_path: Path) -> None:
    # Found before any real one of this machine, and no library at all.
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    answer = sample_with(tmp_path)
    assert (answer["gpus"], answer["error"]) == ([], "NVML Shared Library Not Found")
    assert answer["samples"]


def test_busy_processors_show_in_the_first_sample_already() -> None:
    with telemetry.Gpus() as gpus, subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        with telemetry.Sampler(gpus, interval_s=0.2, origin=time.perf_counter()) as sampler:
            time.sleep(0.5)
        busy.kill()
        rows = sampler.take()
    assert rows[0]["cpu_percent"] > 0
    assert 0 < rows[0]["t_s"] <= rows[1]["t_s"]
    assert rows[0]["memory_used_mib"] > 0
    assert all(row["type"] == "sample" and row["cpu_percent"] <= 100 for row in rows)


def test_a_run_shorter_than_the_interval_has_a_sample_too() -> None:
    with telemetry.Gpus() as gpus:
        with telemetry.Sampler(gpus, interval_s=60, origin=time.perf_counter()) as sampler:
            pass
        assert len(sampler.take()) == 1
        assert sampler.take() == []
