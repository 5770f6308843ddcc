"""Claims of the fake GPU in llama-server (``ggml_gpu.cpp``), held against a server that runs on a real one."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx

from plugins.module_utils.hostlib.buffers import is_host
from plugins.module_utils.hostlib.programs import output_of
from plugins.module_utils.llama_server.gpus import held_memory
from plugins.module_utils.llama_server.proof.memory_log import placement
from tests.conftest import RunningServer, run_server
from tests.gpu.rows import Report
from tests.gpu.steps.place import Place, instance_log, require_gpu, require_model
from tests.gpu.steps.waiting import wait

# What ggml_gpu.cpp claims that llama.cpp logs with CUDA, as the proof and the tests read it.
LINES = {
    "found CUDA devices": r"ggml_cuda_init: found \d+ CUDA devices",
    "the device in use": r"using device CUDA0 \(.+?\) \([0-9a-f:.]+\) - \d+ MiB free",
    "layers offloaded": r"offloaded \d+/\d+ layers to GPU",
    "weights": r":\s+CUDA0 model buffer size =\s*[\d.]+ MiB",
    "cache": r":\s+CUDA0 KV buffer size =\s*[\d.]+ MiB",
    "compute buffer": r":\s+CUDA0 compute buffer size =\s*[\d.]+ MiB",
    "compute buffer of the host": r":\s+CUDA_Host compute buffer size =\s*[\d.]+ MiB",
}


def log(place: Place, report: Report) -> None:
    """Whether the lines that the fake makes llama-server log are those that it logs with CUDA."""
    said = instance_log(place)
    require_gpu(place)
    for what, line in LINES.items():
        found = re.search(f".*{line}.*", said)
        report.claim(f"log: {what}", bool(found), found[0] if found else "no such line", line)
    read = placement(said.splitlines())
    offloaded, buffers = read.offloaded, read.buffers_mib
    report.add("the proof reads the log", bool(offloaded and buffers.get("CUDA0")), f"{offloaded} {buffers}")


def server(place: Place, report: Report) -> None:
    """How the server behaves on a GPU, started by hand: what the fake claims of CUDA."""
    require_model(place)
    require_gpu(place)
    listed = ask(place.server, "--list-devices")
    claimed = r"Available devices:\n(  CUDA\d+: .+ \(\d+ MiB, \d+ MiB free\)\n?)+"
    report.claim("--list-devices", bool(re.fullmatch(claimed, listed)), listed, claimed)
    blind = ask(place.server, "--list-devices", CUDA_VISIBLE_DEVICES="-1")
    report.claim("no device is visible", "no CUDA-capable device is detected" in blind, blind,
                 "no CUDA-capable device is detected")  # fmt: skip
    flags = ["--n-gpu-layers", "999", "--fit", "off", "--log-verbosity", "4"]
    uuid = nvidia_smi_rows("--query-gpu=uuid")[0][0]
    with served(place, *flags, CUDA_VISIBLE_DEVICES=uuid) as (running, said):
        used = first_match(r".*using device CUDA0.*", said)
        report.claim("a GPU is chosen by its UUID", "no such line" not in used, used, "using device CUDA0")
        buffers = placement(said.splitlines()).buffers_mib
        on_gpu = sum(size for name, sizes in buffers.items() if name.startswith("CUDA") and not
                     is_host(name) for size in sizes.values())  # fmt: skip
        pid = running.process.pid
        held = held_memory({pid}).mib
        mib = sum((held or {}).values())
        context = mib - on_gpu
        note = f"buffers {on_gpu:.0f} MiB"
        report.claim("nvidia-smi shows the process", mib >= on_gpu * 0.9 > 0, f"{mib:.0f} MiB, {note}", "its buffers")
        report.claim(
            "the driver's context is memory too", 100 <= context <= 1500, f"{context:.0f} MiB", "300 MiB or so"
        )
        answer = httpx.post(
            f"{running.base_url}/completion", timeout=60,
            json={"prompt": "Once upon a time", "n_predict": 32, "temperature": 0, "ignore_eos": True},
        ).json()  # fmt: skip
        report.add("it answers", answer["timings"]["predicted_n"] == 32, answer["content"][:60])
    running.process.wait()

    def gone() -> bool:
        return not held_memory({pid}).mib

    with contextlib.suppress(TimeoutError):
        wait(gone, "the memory", 10)
    left = gone()
    report.claim("a killed process gives its memory back", left, "it is gone" if left else "still listed", "it does")
    total = sum(gpu["memory_mib"] or 0 for gpu in place.gpus[:1])
    shape = place.shape
    per_token = shape.n_layer * 2 * shape.n_embd // shape.n_head * shape.n_head_kv * 2
    context_size = str(2 * (total << 20) // per_token)
    try:
        with served(place, *flags, "--ctx-size", context_size):
            said = "it was served"
    except RuntimeError as error:
        said = str(error)
    for words in ("cudaMalloc failed: out of memory", "failed to allocate buffer for kv cache"):
        report.claim(f"a full GPU: {words}", words in said, first_match(f".*({words}|alloc).*", said), words)


@contextlib.contextmanager
def served(place: Place, *flags: str, **environment: str) -> Iterator[tuple[RunningServer, str]]:
    """A server without the role; what it logged."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)  # run_server passes them on
    path = place.details / "server.log"
    try:
        with run_server(place.server, place.model, path, *flags) as running:
            yield running, path.read_text(errors="replace")
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def ask(program: Path, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [program, *arguments], env={**os.environ, **environment}, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    listed = done.stdout if environment == {} else done.stdout + done.stderr
    return listed.strip()


def first_match(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[0].strip() if found else f"no such line in: {text[-200:]}"


def nvidia_smi_rows(query: str) -> list[list[str]]:
    said = output_of(["nvidia-smi", query, "--format=csv,noheader,nounits"]) or ""
    return [line.split(", ") for line in said.splitlines()]
