"""Samples of this real machine, and of GPUs behind the real NVML bindings: a small library stands for the driver's."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from nexus_tasks.core.provenance import ROOT
from nexus_tasks.servers.scrape import Source
from nexus_tasks.telemetry import sampling
from tests import exporter
from tests.conftest import RunningServer, free_port, run_server, wait_for

PROGRAM = """
import json, sys, time
from nexus_tasks.telemetry import sampling
with sampling.Gpus() as gpus:
    rows = []
    with sampling.Sampler(gpus, interval_s=0.05, origin=time.perf_counter()) as sampler:
        while len(rows) < 2:
            time.sleep(0.05)
            rows += sampler.take()
    json.dump({"gpus": gpus.as_rows(), "error": gpus.nvml_error, "samples": rows + sampler.take(),
               "state": sampling.host_state(gpus), "alone": sampling.host_state()}, sys.stdout)
"""
# What newer GPUs tell beside what nvml.c has. The second has no counter of its energy, like those before Volta.
MORE = r"""
#include <time.h>
#include "nvml.c"
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned int size) {
    snprintf(uuid, size, "GPU-%d", *(int *)device);
    return SUCCESS;
}
int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned int *milliwatts) { *milliwatts = 350000; return SUCCESS; }
int nvmlDeviceGetClockInfo(void *device, int type, unsigned int *mhz) { *mhz = 1410; return type == 1 ? SUCCESS : 2; }
int nvmlDeviceGetMaxClockInfo(void *device, int type, unsigned int *mhz) {
    *mhz = 1980;
    return type == 1 ? SUCCESS : 2;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *reasons) {
    *reasons = *(int *)device == 0 ? 0x4 | 0x20 : 0x1 | 0x2;  /* limited by power and heat; idle, with clocks set */
    return SUCCESS;
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *millijoules = (now.tv_sec % 100000) * 311500ull + now.tv_nsec / 1000 * 3115 / 10000;
    return *(int *)device == 0 ? SUCCESS : NOT_SUPPORTED;
}
"""
# Two GPUs that tell their memory. Files beside the library decide: lost0 and lost1 take one away, with hang0 all hang.
FADING = r"""
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
typedef struct { unsigned long long total, free, used; } memory_t;
static int gpus[2] = {0, 1};
static int there(const char *name, int number) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s%d", getenv("LD_LIBRARY_PATH"), name, number);
    return access(path, F_OK) == 0;
}
static int state(void *device) {
    while (there("hang", 0)) usleep(100000);
    return there("lost", *(int *)device) ? 15 : 0;
}
int nvmlInitWithFlags(unsigned int flags) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return "error"; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    *device = &gpus[index];
    return state(*device);
}
int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    memory->total = 24576ull << 20;
    memory->used = 1000ull << 20;
    memory->free = memory->total - memory->used;
    return state(device);
}
"""
HANGING = """
import pathlib, sys, time
from nexus_tasks.telemetry import sampling
with sampling.Gpus() as gpus, sampling.Sampler(gpus, interval_s=0.05, origin=time.perf_counter()) as sampler:
    while not (rows := sampler.take()):
        time.sleep(0.05)
    pathlib.Path(sys.argv[1]).touch()
    time.sleep(0.5)
print(len(rows[0]["gpus"]), "GPUs")
"""
OLD = {"power_limit_w": None, "energy_j": None, "clock_mhz": None, "throttled": None}
NEW = {"power_limit_w": 350.0, "clock_mhz": 1410}


def compiler() -> str:
    if shutil.which("cc") is None:
        pytest.fail("this test needs a C compiler named cc on the PATH: apt-get install gcc")
    return "cc"


@pytest.fixture
def nvml_dir(tmp_path: Path) -> Path:
    """A folder for the library, which the dynamic loader looks into first."""
    compiler()
    return tmp_path


def build_nvml(folder: Path, *definitions: str) -> Path:
    """The driver's library as tests/fakes/nvml.c has it: of a GPU that tells little."""
    library = folder / "libnvidia-ml.so.1"
    source = ROOT / "tests/fakes/nvml.c"
    subprocess.run([compiler(), "-shared", "-fPIC", *definitions, "-o", library, source], check=True)
    return library


def build_newer_nvml(folder: Path) -> Path:
    """The driver's library of GPUs that tell all that is asked for."""
    return compile_nvml(folder, MORE)


def compile_nvml(folder: Path, source: str) -> Path:
    library = folder / "libnvidia-ml.so.1"
    command: list[str | Path] = [
        compiler(),
        "-shared",
        "-fPIC",
        "-I",
        ROOT / "tests/fakes",
        "-o",
        library,
        "-x",
        "c",
        "-",
    ]
    subprocess.run(command, input=source, text=True, check=True)
    return library


def sample_with(folder: Path) -> dict[str, Any]:
    """A sample of another process with the folder's library: the bindings keep theirs for a process's life."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


@contextlib.contextmanager
def run_exporter(folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The exporter as role telemetry places it, with the folder's library; its base URL and its process."""
    port = free_port()
    with exporter.run("--port", str(port), *options, LD_LIBRARY_PATH=str(folder)) as process:
        try:
            wait_for(lambda: answers(port), "the exporter")
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.kill()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_two_gpus_are_named_and_sampled_and_what_one_lacks_is_null(nvml_dir: Path) -> None:
    build_nvml(nvml_dir)
    answer = sample_with(nvml_dir)
    assert answer["error"] is None
    assert answer["gpus"] == [
        {"index": 0, "name": "Test GPU 0", "driver": "580.65.06", "memory_total_mib": 24576},
        {"index": 1, "name": "Test GPU 1", "driver": "580.65.06", "memory_total_mib": 24576},
    ]
    assert len(answer["samples"]) >= 2
    known = {"utilization_percent": 97, **OLD}
    for sample in answer["samples"]:
        assert sample["gpus"] == [
            {"index": 0, "memory_used_mib": 1000, "power_w": 311.5, "temperature_c": 64, **known},
            {"index": 1, "memory_used_mib": 1001, "power_w": None, "temperature_c": None, **known},
        ]
    unknown = {"power_limit_w": [None, None], "clocks_max_mhz": [None, None], "governor": sampling.governor()}
    assert answer["state"] == answer["alone"] == {"driver": "580.65.06", **unknown}


def test_limits_clocks_energy_and_what_slows_a_gpu_down_are_sampled(nvml_dir: Path) -> None:
    build_newer_nvml(nvml_dir)
    answer = sample_with(nvml_dir)
    joules = [sample["gpus"][0].pop("energy_j") for sample in answer["samples"]]
    assert joules == sorted(joules)
    for sample in answer["samples"]:
        first, second = sample["gpus"]
        assert {name: first[name] for name in NEW} == NEW
        assert first["throttled"] == ["sw_power_cap", "sw_thermal_slowdown"]
        assert second["throttled"] == []  # it is idle, and somebody has set its clocks
        assert second["energy_j"] is None
    assert answer["state"] == {
        "driver": "580.65.06", "power_limit_w": [350.0, 350.0], "clocks_max_mhz": [1980, 1980],
        "governor": sampling.governor(),
    }  # fmt: skip


def test_a_gpu_that_fell_off_the_bus_hides_no_other(nvml_dir: Path) -> None:
    build_nvml(nvml_dir, "-DLOST")
    answer = sample_with(nvml_dir)
    assert [gpu["index"] for gpu in answer["gpus"]] == [1]
    assert [gpu["index"] for gpu in answer["samples"][0]["gpus"]] == [1]
    assert answer["error"] == "GPU 0 does not answer"


def test_a_gpu_that_is_lost_while_it_is_watched_is_told(nvml_dir: Path) -> None:
    compile_nvml(nvml_dir, FADING)
    with run_exporter(nvml_dir) as (url, process), Source("rig", url) as source:
        whole = source.look().machine
        (nvml_dir / "lost1").touch()
        one = source.look().machine
        up = httpx.get(f"{url}/metrics").text
        (nvml_dir / "lost1").unlink()
        back = source.look().machine
        (nvml_dir / "lost0").touch()
        (nvml_dir / "lost1").touch()
        none = source.look().machine
        assert process.poll() is None
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"{url}/metrics")
        assert process.wait(timeout=60) == 1  # to start over, with the library that is there now
    assert whole
    assert one
    assert back
    assert none
    assert [whole.nvml_error, one.nvml_error, back.nvml_error] == [None, "GPU 1 does not answer", None]
    assert [gpu["memory_used_mib"] for gpu in one.gpus] == [1000, None]
    assert "llama_nexus_nvml_up 1.0" in up
    assert 'llama_nexus_nvml_error_info{error="GPU 1 does not answer"} 1.0' in up
    assert none.nvml_error == "GPU 0, 1 do not answer"


def test_a_driver_that_hangs_holds_up_no_run(nvml_dir: Path) -> None:
    compile_nvml(nvml_dir, FADING)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(nvml_dir)}
    command: list[str | Path] = [sys.executable, "-c", HANGING, nvml_dir / "hang0"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("2 GPUs\n", "")


def test_a_driver_that_is_not_loaded_is_recorded_and_costs_nothing_else(nvml_dir: Path) -> None:
    build_nvml(nvml_dir, "-DINIT=DRIVER_NOT_LOADED")
    answer = sample_with(nvml_dir)
    assert (answer["gpus"], answer["error"]) == ([], "Driver Not Loaded")
    assert answer["samples"][0]["gpus"] == []
    assert answer["samples"][0]["memory_used_mib"] > 0
    assert answer["state"] == {
        "driver": None, "power_limit_w": None, "clocks_max_mhz": None, "governor": sampling.governor()
    }  # fmt: skip


def test_a_machine_without_the_library_has_no_gpus_and_says_why(tmp_path: Path) -> None:
    # Found before any real one of this machine, and no library at all.
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    answer = sample_with(tmp_path)
    assert (answer["gpus"], answer["error"]) == ([], "NVML Shared Library Not Found")
    assert answer["samples"]


def test_busy_processors_show_in_the_first_sample_already() -> None:
    with sampling.Gpus() as gpus, subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        with sampling.Sampler(gpus, interval_s=0.2, origin=time.perf_counter()) as sampler:
            rows = wait_for(sampler.take, "the first sample")
        busy.kill()
        rows += sampler.take()
    assert rows[0]["cpu_percent"] > 0
    assert 0 < rows[0]["t_s"] <= rows[1]["t_s"]
    assert rows[0]["memory_used_mib"] > 0
    assert all(row["type"] == "sample" and row["source"] == "client" for row in rows)
    assert all(row["cpu_percent"] <= 100 and row["server"] is None for row in rows)


def test_a_run_shorter_than_the_interval_has_a_sample_too() -> None:
    with sampling.Gpus() as gpus:
        with sampling.Sampler(gpus, interval_s=60, origin=time.perf_counter()) as sampler:
            pass
        assert len(sampler.take()) == 1
        assert sampler.take() == []


def test_what_an_exporter_tells_is_what_its_machine_would_have_sampled(nvml_dir: Path) -> None:
    build_newer_nvml(nvml_dir)
    there = sample_with(nvml_dir)
    with run_exporter(nvml_dir) as (url, _), Source("rig", url) as source:
        first = source.sample()
        time.sleep(0.2)  # the kernel counts in hundredths of a second
        second = source.sample()
        look = source.look()
    assert look.machine
    assert look.machine.host_state() == there["state"]
    assert [{name: gpu[name] for name in ("index", "name", "driver", "memory_total_mib")}
            for gpu in look.machine.inventory] == there["gpus"]  # fmt: skip
    for gpus in (first["gpus"], there["samples"][0]["gpus"]):
        gpus[0].pop("energy_j")
    assert first["gpus"] == there["samples"][0]["gpus"]
    assert first["cpu_percent"] is None  # it takes two looks
    assert 0 <= second["cpu_percent"] <= 100
    assert second["gpus"][0]["energy_j"] > 0
    assert second["memory_used_mib"] > 0
    assert second["server"] is None


def test_an_exporter_says_what_it_was_started_with(tmp_path: Path) -> None:
    with run_exporter(tmp_path, "--configuration", "3f9a") as (url, _):
        assert 'llama_nexus_exporter_info{configuration="3f9a"} 1.0' in httpx.get(f"{url}/metrics").text


def test_an_exporter_lets_go_of_nvml_when_nobody_asks_and_starts_over_when_it_stopped_working(nvml_dir: Path) -> None:
    # A library that works once: as that of a driver that was replaced while the process had it.
    first_only = "static int inits; int nvmlInitWithFlags(unsigned int flags) { return inits++ ? 18 : SUCCESS; }"
    renamed = MORE.replace('#include "nvml.c"', f'#define nvmlInitWithFlags first\n#include "nvml.c"\n'
                           f"#undef nvmlInitWithFlags\n{first_only}")  # fmt: skip
    compile_nvml(nvml_dir, renamed)
    with run_exporter(nvml_dir) as (url, process):
        assert "nvml_up 1.0" in httpx.get(f"{url}/metrics").text
        assert "nvml_up 1.0" in httpx.get(f"{url}/metrics").text  # still open
        time.sleep(7)
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"{url}/metrics")
        assert process.wait(timeout=60) == 1


def test_a_port_that_is_taken_ends_an_exporter_with_a_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with exporter.command("--port", port) as (argv, environment):
            done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"exporter: can't listen on 127.0.0.1 port {port}: Address already in use\n"


# --- other sources beside this machine


@pytest.fixture(scope="module")
def measured(
    llama_server_bin: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A llama-server with counters."""
    log = tmp_path_factory.mktemp("measured") / "server.log"
    with run_server(llama_server_bin, tiny_model, log, "--metrics") as running:
        yield running


def of_source(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["source"] == name]


def samples_until(sampler: sampling.Sampler, count: int, *names: str) -> list[dict[str, Any]]:
    """The samples that come until there are so many of each source."""
    rows: list[dict[str, Any]] = []

    def enough() -> bool:
        rows.extend(sampler.take())
        return all(len(of_source(rows, name)) >= count for name in names)

    wait_for(enough, f"{count} samples of {', '.join(names)}", 20)  # less than a source may hang
    return rows


def test_a_source_is_asked_at_once_and_at_the_end_however_long_the_interval_is(measured: RunningServer) -> None:
    sources = [Source("rig/main", measured.base_url)]
    with (
        sampling.Gpus() as gpus,
        sampling.Sampler(gpus, interval_s=3600, origin=time.perf_counter(), sources=sources) as sampler,
    ):
        rows = samples_until(sampler, 1, "rig/main")
    assert len(of_source([*rows, *sampler.take()], "rig/main")) == 2


def test_a_server_is_sampled_beside_this_machine_from_the_first_moment_to_the_last(measured: RunningServer) -> None:
    with Source("rig/main", measured.base_url) as source:
        before = source.look().server
    assert before
    assert before.predicted_tokens_total is not None
    with sampling.Gpus() as gpus:
        origin = time.perf_counter()
        sources = [Source("rig/main", measured.base_url)]
        with sampling.Sampler(gpus, interval_s=0.05, origin=origin, sources=sources) as sampler:
            rows = samples_until(sampler, 1, "rig/main")  # else the first one may come when tokens do
            body = {"prompt": "Once upon a time", "n_predict": 512, "ignore_eos": True, "cache_prompt": False}
            httpx.post(f"{measured.base_url}/completion", json=body, timeout=300).raise_for_status()
        rows += sampler.take()
    served = of_source(rows, "rig/main")
    assert {"client", "rig/main"} == {row["source"] for row in rows}
    assert served[0]["server"]["predicted_tokens_total"] == before.predicted_tokens_total
    assert served[-1]["server"]["predicted_tokens_total"] == before.predicted_tokens_total + 512
    totals = [row["server"]["predicted_tokens_total"] for row in served]
    assert totals == sorted(totals)
    # Tokens are counted while they are generated, not when the request has ended.
    assert any(before.predicted_tokens_total < total < totals[-1] for total in totals)
    busy = [row["server"] for row in served if row["server"]["slots_busy"]]
    assert busy
    assert {(row["slots_busy"], row["slots"], row["waiting"]) for row in busy} == {(1, 1, 0)}
    assert served[-1]["server"]["prompt_tokens_total"] > served[0]["server"]["prompt_tokens_total"]


@pytest.mark.alone
def test_a_source_that_is_dead_and_one_that_hangs_leave_gaps_and_delay_nothing(measured: RunningServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, sampling.Gpus() as gpus:
        sources = [
            Source("dead", f"http://127.0.0.1:{free_port()}"),
            Source("hangs", f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=30),
            Source("lives", measured.base_url),
        ]
        with sampling.Sampler(gpus, interval_s=0.05, origin=time.perf_counter(), sources=sources) as sampler:
            rows = samples_until(sampler, 5, "client", "lives", "dead")
            begun = time.monotonic()
        stopping = time.monotonic() - begun
        rows += sampler.take()
    by_source = {name: of_source(rows, name) for name in ("client", "dead", "hangs", "lives")}
    assert by_source["hangs"] == []  # it has 30 seconds
    gap: dict[str, Any] = {"cpu_percent": None, "memory_used_mib": None, "gpus": [], "server": None}
    assert all({name: row[name] for name in gap} == gap for row in by_source["dead"])
    assert stopping < sampling.LAST_S + 10
    assert not [t for t in threading.enumerate() if t.name == "telemetry of dead"]
