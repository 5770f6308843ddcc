"""The GPUs that are not there, before the real llama-server: tests rely on what these say and fail."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from plugins.module_utils.nvidia import facts as nvidia_facts
from tests import pin
from tests.conftest import RunningServer, ansible, run_server
from tests.fakes import tiny_moe
from tests.fakes.fixtures import MakeGpus
from tests.fakes.gpus import FakeGpus, Gpu

BUFFER = re.compile(r": +(\S+) +(model|KV|compute|output) buffer size = +([\d.]+) MiB")
APPS = ("--query-compute-apps=pid,gpu_uuid,used_memory", "--format=csv,noheader,nounits")
BABBLE: dict[str, Any] = {
    "prompt": "Once upon a time", "n_predict": 32, "temperature": 0, "ignore_eos": True, "cache_prompt": False,
}  # fmt: skip


@contextlib.contextmanager
def serve(
    gpus: FakeGpus, binary: Path, model: Path, *flags: str, **environment: str
) -> Iterator[tuple[RunningServer, str]]:
    """A server with the backend's variable, and its log of the start."""
    variables = {"GGML_BACKEND_PATH": str(gpus.library), **environment}
    log = gpus.folder / f"server-{time.monotonic_ns()}.log"
    with pytest.MonkeyPatch.context() as patch:  # run_server passes this process's environment on
        for name, value in variables.items():
            patch.setenv(name, value)
        with run_server(binary, model, log, "--log-verbosity", "4", *flags) as running:
            yield running, log.read_text()


def offload(gpus: FakeGpus) -> list[str]:
    """The options that put all layers on all devices."""
    return ["--device", gpus.devices, "--n-gpu-layers", "99"]


def buffers(log: str) -> dict[tuple[str, str], float]:
    """MiB by device and kind."""
    return {(device, kind): float(size) for device, kind, size in BUFFER.findall(log)}


def complete(server: RunningServer, **options: Any) -> dict[str, Any]:
    """A completion's answer."""
    answer = httpx.post(f"{server.base_url}/completion", json={**BABBLE, **options}, timeout=60)
    answer.raise_for_status()
    body: dict[str, Any] = answer.json()
    return body


def apps(gpus: FakeGpus) -> dict[tuple[int, str], int]:
    """What nvidia-smi says that processes hold: MiB by process and GPU."""
    rows = [line.split(", ") for line in gpus.smi(*APPS).splitlines()]
    return {(int(pid), uuid): int(used) for pid, uuid, used in rows}


def test_all_layers_are_offloaded_and_the_answer_is_that_of_the_cpu(
    make_gpus: MakeGpus, llama_server_bin: Path, tiny_model: Path, server: RunningServer
) -> None:
    gpus = make_gpus()
    with serve(gpus, llama_server_bin, tiny_model, *offload(gpus)) as (running, log):
        assert "offloaded 13/13 layers to GPU" in log
        assert "using device CUDA0 (NVIDIA L4) (0000:3b:00.0) - 22734 MiB free" in log
        sizes = buffers(log)
        assert sizes["CUDA0", "model"] > 70
        assert sizes["CPU_Mapped", "model"] < 1
        assert sizes["CUDA0", "KV"] == 48
        assert ("CPU", "KV") not in sizes
        assert sizes["CUDA0", "compute"] > 0
        assert sizes["CUDA_Host", "compute"] > 0
        answer = complete(running)
    assert answer["timings"]["predicted_n"] == 32
    assert answer["content"] == complete(server)["content"]


def test_one_variable_is_enough_for_a_process_without_any_other(make_gpus: MakeGpus, llama_server_bin: Path) -> None:
    gpus = make_gpus(Gpu(), Gpu("NVIDIA T4", "7.5", 15360, occupied_mib=360))
    listed = subprocess.run(
        [llama_server_bin, "--list-devices"], env={"GGML_BACKEND_PATH": str(gpus.library)}, cwd="/",
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert listed.stdout.splitlines() == [
        "Available devices:",
        "  CUDA0: NVIDIA L4 (23034 MiB, 22734 MiB free)",
        "  CUDA1: NVIDIA T4 (15360 MiB, 14700 MiB free)",
    ]


def test_two_devices_share_the_layers_as_the_split_says(
    make_gpus: MakeGpus, llama_server_bin: Path, tiny_model: Path
) -> None:
    gpus = make_gpus(Gpu(), Gpu())
    with serve(gpus, llama_server_bin, tiny_model, *offload(gpus), "--tensor-split", "1,3") as (running, log):
        sizes = buffers(log)
        assert "offloaded 13/13 layers to GPU" in log
        assert sizes["CUDA1", "model"] >= 2 * sizes["CUDA0", "model"] > 0
        assert sizes["CUDA1", "KV"] >= 2 * sizes["CUDA0", "KV"] > 0
        # Several GPUs work on several batches at a time, where the backend can do that.
        assert "sched copies = 4" in log
        assert complete(running)["timings"]["predicted_n"] == 32


def test_experts_on_the_cpu_show_in_the_buffers_alone(
    make_gpus: MakeGpus, llama_server_bin: Path, moe_model: Path
) -> None:
    gpus = make_gpus()
    with serve(gpus, llama_server_bin, moe_model, *offload(gpus)) as (running, log):
        whole, text = buffers(log), complete(running)["content"]
    with serve(gpus, llama_server_bin, moe_model, *offload(gpus), "--n-cpu-moe", "4") as (running, log):
        assert "offloaded 7/7 layers to GPU" in log
        assert whole["CUDA0", "model"] - buffers(log)["CUDA0", "model"] == pytest.approx(
            4 * tiny_moe.EXPERTS_MIB, abs=0.02
        )
        assert buffers(log)["CPU_Mapped", "model"] > 4 * tiny_moe.EXPERTS_MIB > whole["CPU_Mapped", "model"]
        assert complete(running)["content"] == text


@pytest.mark.parametrize(
    ("free_mib", "complaint"),
    [
        (60, "allocating 72.35 MiB on device 0: cudaMalloc failed: out of memory"),
        (100, "failed to allocate buffer for kv cache"),
        (130, "failed to allocate compute pp buffers"),
    ],
)
def test_a_gpu_that_is_full_stops_the_start_with_the_words_of_cuda(
    make_gpus: MakeGpus, llama_server_bin: Path, tiny_model: Path, free_mib: int, complaint: str
) -> None:
    gpus = make_gpus(Gpu(memory_mib=24576, occupied_mib=24576 - free_mib), context_mib=0)
    with (
        pytest.raises(RuntimeError, match=complaint) as failed,
        serve(gpus, llama_server_bin, tiny_model, *offload(gpus), "--fit", "off"),
    ):
        pass
    assert "cudaMalloc failed: out of memory" in str(failed.value)


def test_processes_share_the_memory_and_give_it_back_however_they_end(
    make_gpus: MakeGpus, llama_server_bin: Path, tiny_model: Path
) -> None:
    gpus = make_gpus(Gpu(memory_mib=800))  # each takes 300 for its context and 137 for the model
    flags = [*offload(gpus), "--fit", "off"]
    with (
        serve(gpus, llama_server_bin, tiny_model, *flags),
        pytest.raises(RuntimeError, match="cudaMalloc failed: out of memory"),
        serve(gpus, llama_server_bin, tiny_model, *flags),
    ):
        pass  # the second one's start
    with serve(gpus, llama_server_bin, tiny_model, *flags):  # both were killed
        pass


def test_nvidia_smi_shows_the_process_with_the_memory_that_the_log_names(
    make_gpus: MakeGpus, llama_server_bin: Path, tiny_model: Path
) -> None:
    gpus = make_gpus(Gpu(), Gpu(occupied_mib=1000), context_mib=400)
    first, second = gpus.uuids
    flags = ["--device", "CUDA0", "--n-gpu-layers", "99"]
    with serve(gpus, llama_server_bin, tiny_model, *flags) as (running, log):
        pid = running.process.pid
        held = sum(size for (device, _), size in buffers(log).items() if device == "CUDA0")
        # The driver's context is on each GPU that the process sees, whether it uses it or not.
        assert apps(gpus) == {(pid, first): pytest.approx(held + 400, abs=2), (pid, second): 400}
        columns = "--query-gpu=index,uuid,memory.total,memory.used,memory.free"
        used = apps(gpus)[pid, first]
        assert gpus.smi(columns, "--format=csv,noheader,nounits").splitlines() == [
            f"0, {first}, 23034, {used}, {23034 - used}",
            f"1, {second}, 23034, 1400, 21634",
        ]
        assert gpus.smi(*APPS, "-i", "1").splitlines() == [f"{pid}, {second}, 400"]
        gpus.set(processes="without-memory")
        assert f"{pid}, {first}, [N/A]" in gpus.smi(*APPS)
        gpus.set(processes="hidden")
        assert gpus.smi(*APPS) == ""
        gpus.set()
    running.process.wait()
    assert apps(gpus) == {}


@pytest.mark.parametrize("by_uuid", [False, True])
def test_a_process_sees_the_gpus_that_cuda_visible_devices_names(
    make_gpus: MakeGpus, llama_server_bin: Path, tiny_model: Path, by_uuid: bool
) -> None:
    gpus = make_gpus(Gpu(), Gpu("NVIDIA T4", "7.5", 15360))
    wanted = gpus.uuids[1] if by_uuid else "1"
    flags = ["--device", "CUDA0", "--n-gpu-layers", "99"]
    with serve(gpus, llama_server_bin, tiny_model, *flags, CUDA_VISIBLE_DEVICES=wanted) as (running, log):
        assert "using device CUDA0 (NVIDIA T4)" in log
        assert list(apps(gpus)) == [(running.process.pid, gpus.uuids[1])]


# Far slower than any machine is by itself, however busy: without arithmetic it makes hundreds a second.
SLOW_MS = 100
SLOW = 1000 / SLOW_MS + 0.1


def tokens_per_second(server: RunningServer) -> float:
    return float(complete(server, n_predict=12)["timings"]["predicted_per_second"])


def test_a_delay_slows_a_running_server_down_token_by_token(
    make_gpus: MakeGpus, llama_server_bin: Path, tiny_model: Path
) -> None:
    gpus = make_gpus(arithmetic="none")
    with serve(gpus, llama_server_bin, tiny_model, *offload(gpus)) as (running, _):
        assert tokens_per_second(running) > SLOW
        gpus.set(arithmetic="none", delay_ms=SLOW_MS)
        assert 0 < tokens_per_second(running) < SLOW
        gpus.set(arithmetic="none")
        assert tokens_per_second(running) > SLOW


def test_a_variable_of_one_process_wins_over_the_settings(
    make_gpus: MakeGpus, llama_server_bin: Path, tiny_model: Path
) -> None:
    gpus = make_gpus()
    slow = {"NEXUS_FAKE_GPU_DELAY_MS": str(SLOW_MS), "NEXUS_FAKE_GPU_ARITHMETIC": "none"}
    with serve(gpus, llama_server_bin, tiny_model, *offload(gpus), **slow) as (running, _):
        assert 0 < tokens_per_second(running) < SLOW


def test_without_arithmetic_weights_and_cache_take_no_memory_and_tokens_still_come(
    make_gpus: MakeGpus, llama_server_bin: Path, tiny_model: Path
) -> None:
    gpus = make_gpus(arithmetic="none")
    with serve(gpus, llama_server_bin, tiny_model, *offload(gpus)) as (running, _):
        assert complete(running, temperature=0.8)["timings"]["predicted_n"] == 32
        [held] = apps(gpus).values()
        status = Path(f"/proc/{running.process.pid}/status").read_text()
    resident = re.search(r"RssShmem:\s+(\d+) kB", status)
    assert resident
    assert int(resident[1]) < 1024 < held * 1024 / 100


def test_a_graph_that_hangs_leaves_the_server_healthy_and_mute(
    make_gpus: MakeGpus, llama_server_bin: Path, tiny_model: Path
) -> None:
    gpus = make_gpus()
    with serve(gpus, llama_server_bin, tiny_model, *offload(gpus)) as (running, _):
        gpus.set(fail="hang")
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{running.base_url}/completion", json=BABBLE, timeout=1)
        assert httpx.get(f"{running.base_url}/health").status_code == httpx.codes.OK
        gpus.set()
        assert complete(running)["timings"]["predicted_n"] == 32


def test_a_cuda_error_ends_a_running_server(make_gpus: MakeGpus, llama_server_bin: Path, tiny_model: Path) -> None:
    gpus = make_gpus()
    with serve(gpus, llama_server_bin, tiny_model, *offload(gpus)) as (running, _):
        gpus.set(fail="error")
        with pytest.raises(httpx.TransportError):
            complete(running)
        assert running.process.wait(timeout=30) == -signal.SIGABRT
        assert "CUDA error: an illegal memory access was encountered" in running.log.read_text()


def test_a_crash_while_cuda_is_initialised_ends_the_program_at_once(
    make_gpus: MakeGpus, llama_server_bin: Path
) -> None:
    gpus = make_gpus(fail="abort")
    died = subprocess.run(
        [llama_server_bin, "--list-devices"], env={"GGML_BACKEND_PATH": str(gpus.library)}, capture_output=True,
        check=False,
    )  # fmt: skip
    assert died.returncode == -signal.SIGABRT
    assert b"CUDA error" in died.stderr


def test_a_release_with_cuda_built_in_needs_no_variable_and_no_device(
    make_gpus: MakeGpus, release: Path, tiny_model: Path, tmp_path: Path
) -> None:
    gpus = make_gpus()
    binary = gpus.release(tmp_path / "prefix", release) / "bin/llama-server"
    with run_server(binary, tiny_model, tmp_path / "log", "--n-gpu-layers", "99", "-lv", "4") as running:
        log = running.log.read_text()
        assert "offloaded 13/13 layers to GPU" in log
        assert "no usable GPU" not in log
        assert list(apps(gpus)) == [(running.process.pid, gpus.uuids[0])]
    gpus.set(fail="no-device")  # as at boot, before the driver is ready
    with run_server(binary, tiny_model, tmp_path / "log", "--n-gpu-layers", "99", "-lv", "4") as running:
        log = running.log.read_text()
        assert "no CUDA-capable device is detected" in log
        assert buffers(log)["CPU_Mapped", "model"] > 70
        assert complete(running)["timings"]["predicted_n"] == 32


def test_the_role_finds_the_gpus_and_takes_that_release_for_its_own(
    make_gpus: MakeGpus, release: Path, tmp_path: Path
) -> None:
    gpus, prefix = make_gpus(Gpu(), Gpu("NVIDIA T4", "7.5", 15360)), tmp_path / "prefix"
    made = gpus.release(prefix, release, next(iter(nvidia_facts.toolkits()), None))
    assert made.name.startswith(f"{pin.REF}-cuda75-89-")
    (prefix / "current").unlink()
    done = ansible(
        "playbooks/build.yml", "-l", "local", "-e", f"llama_nexus_prefix={prefix}", PATH=gpus.environment["PATH"]
    )
    assert "failed=0" in done.stdout
    assert (prefix / "current").resolve() == made
    assert list((prefix / "releases").iterdir()) == [made]  # nothing was built beside it
    manifest = json.loads((made / "manifest.json").read_text())
    assert manifest["links"]["bin/libggml-cuda.so"] == str(gpus.library)
    assert "bin/llama-server" in manifest["files"]


def test_nvidia_smi_answers_queries_in_csv_as_the_format_asks(make_gpus: MakeGpus) -> None:
    gpus = make_gpus(Gpu(), Gpu("NVIDIA T4", "7.5", 15360), driver_version="570.1")
    query = "--query-gpu=name,compute_cap,driver_version,memory.total"
    assert gpus.smi(query, "--format=csv,noheader,nounits").splitlines() == [
        "NVIDIA L4, 8.9, 570.1, 23034",
        "NVIDIA T4, 7.5, 570.1, 15360",
    ]
    assert gpus.smi(query, "--format=csv", "--id=1").splitlines() == [
        "name, compute_cap, driver_version, memory.total [MiB]",
        "NVIDIA T4, 7.5, 570.1, 15360 MiB",
    ]
    assert gpus.smi("-L").splitlines()[1] == f"GPU 1: NVIDIA T4 (UUID: {gpus.uuids[1]})"
    assert gpus.smi("--query-compute-apps=pid,used_memory", "--format=csv") == "pid, used_gpu_memory [MiB]\n"


def test_nvidia_smi_refuses_what_it_does_not_know_and_fails_with_the_driver(make_gpus: MakeGpus) -> None:
    gpus = make_gpus()
    refused = gpus.smi("--query-gpu=name,vram", "--format=csv", status=2)
    assert refused.startswith('Field "vram" is not a valid field to query.')
    assert gpus.smi("--query-gpu=name", "--format=csv", "--id=7", status=6) == "No devices were found\n"
    gpus.set(smi_status=9, smi_error="NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
    assert "couldn't communicate" in gpus.smi("-L", status=9)
    with pytest.raises(TypeError, match="no such setting: speed"):
        gpus.set(speed=3)
