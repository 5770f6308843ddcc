"""The steps of the check, in the environment that ``check.py`` made: ``python -m tests.gpu.steps NAME --work FOLDER``.

Everything goes through the project's own playbooks, roles and tasks; what is looked at beside them is what the tests'
fakes claim of nvidia-smi, NVML and llama-server on a GPU. Without a GPU the steps go as far as the processor lets them.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pynvml
import yaml

from nexus_tasks.model_store import tiny_model
from nexus_tasks.records import store
from nexus_tasks.servers import scrape
from nexus_tasks.telemetry import sampling
from plugins.module_utils.hostlib.buffers import is_host
from plugins.module_utils.hostlib.processes import output_of
from plugins.module_utils.llama_bench.host_state import gpus_of_host, host_of
from plugins.module_utils.llama_cpp.release import read_manifest
from plugins.module_utils.llama_cpp.tools import find_compiler
from plugins.module_utils.llama_server.gpus import held_memory
from plugins.module_utils.llama_server.proof.memory_log import placement
from plugins.module_utils.nvidia import host as nvidia_host
from plugins.module_utils.nvidia import toolkits
from tests import exporter
from tests.conftest import ROOT, RunningServer, free_port, run_server
from tests.fakes.gpus import FakeGpus, Gpu
from tests.gpu.rows import DIFFERS, NOT_RUN, NotRun, Report

# 1.8 GiB in F16: a token is a good part of a millisecond of a fast GPU's memory, as it is for a model that people use.
LARGE = tiny_model.Shape(n_layer=16, n_embd=2048, n_head=32, n_head_kv=8, n_ff=8192)
SMALL = tiny_model.Shape(n_layer=4, n_embd=128, n_head=4, n_head_kv=2, n_ff=384)
LARGE_LOAD, SMALL_LOAD = (512, 256, 5), (16, 64, 2)  # tokens of prompt and answer, repetitions
MODEL = "gpu-check-babble"
NUMBER = re.compile(r"-?\d+(\.\d+)?( ?(MiB|W|%|MHz))?")

Instances = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Place:
    """The folders of a check, and what is declared there."""

    work: Path
    pack: Path
    small: bool

    @property
    def prefix(self) -> Path:
        return self.work / "prefix"

    @property
    def model(self) -> Path:
        return self.work / f"{MODEL}{'-small' if self.small else ''}.gguf"

    @property
    def shape(self) -> tiny_model.Shape:
        return SMALL if self.small else LARGE

    @property
    def load(self) -> tuple[int, int, int]:
        return SMALL_LOAD if self.small else LARGE_LOAD

    @property
    def details(self) -> Path:
        """What is kept beside the rows."""
        folder = self.work / "details"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def release(self) -> Path:
        """The release that was built. Raises NotRun where none was."""
        current = self.prefix / "current"
        if not current.exists():
            raise NotRun("there is no release: see the step build")
        return current.resolve()

    @property
    def server(self) -> Path:
        return self.release / "bin/llama-server"

    @cached_property
    def gpus(self) -> list[dict[str, Any]]:
        """Those that the driver shows, as the roles see them."""
        gpus: list[dict[str, Any]] = nvidia_host.driver_gpus()[0]
        return gpus

    @property
    def instance(self) -> dict[str, Any]:
        """What is declared: every layer on the GPU, where there is one."""
        port = self.work / "port"
        if not port.exists():
            port.write_text(str(free_port()))
        declared: dict[str, Any] = {"model": MODEL, "port": int(port.read_text()), "ctx_size": 4096, "parallel": 1}
        if self.gpus:
            declared |= {"n_gpu_layers": 999, "fit": "off"}
        if self.small:
            declared |= {"threads": 1}  # two that wait for each other make a busy machine stand still
        return declared

    def declare(self, **more: Any) -> dict[str, Any]:
        """Write the inventory: the repository's, with the places of this check. What was written."""
        inventory = self.work / "inventory"
        (inventory / "host_vars").mkdir(parents=True, exist_ok=True)
        for name, target in (("hosts.yml", ROOT / "inventory/hosts.yml"), ("group_vars", ROOT / "group_vars")):
            if not (inventory / name).is_symlink():
                (inventory / name).symlink_to(target)
        pack = json.loads((self.pack / "pack.json").read_text())
        own = {
            "llama_nexus_prefix": str(self.prefix),
            "llama_nexus_tools": str(self.work / "env"),  # has supervisor already
            "llama_cpp_source": "archive",
            "llama_cpp_archive": str(self.pack / "llama.cpp.tar.xz"),
            "llama_cpp_archive_sha256": pack["files"]["llama.cpp.tar.xz"]["sha256"],
            "llama_cpp_require_gpu": bool(self.gpus),
            "llama_cpp_fa_quants": ["f16-f16"],  # each further pair is minutes of a compiler
            "llama_models": {MODEL: {"path": str(self.model)}},
            "llama_server_instances": {"main": self.instance},
            **more,
        }
        (inventory / "host_vars/localhost.yml").write_text(yaml.safe_dump(own))
        return own


def play(name: str, *arguments: str) -> tuple[int, str]:
    """Run a playbook for this machine: its status, and what it said, which goes to the log as it comes."""
    said = []
    command = [str(Path(sys.executable).parent / "ansible-playbook"), name, *arguments]
    print("$", *command, flush=True)  # noqa: T201 - the log
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            sys.stdout.write(line)
            sys.stdout.flush()
            said.append(line)
    return process.returncode, "".join(said)


def reason(said: str) -> str:
    """Why a play failed: the message of its first failure."""
    found = re.search(
        r"(?:fatal|failed): .*?(?:\bmsg: |\"msg\": )(?:\|-)?(.*?)(?=\n\S|\n    \w+: |\Z)", said, re.DOTALL
    )
    words = " ".join((found[1] if found else said[-400:]).split())
    return words.partition(" The last 30 lines of its log")[0][:600]


# --- the machine and its driver


def machine(place: Place, report: Report) -> None:
    """What is there, as the roles see it."""
    keep(place, "nvidia-smi-q.txt", "nvidia-smi", "-q")
    keep(place, "cpu.txt", "lscpu")
    seen = nvidia_host.look()
    for gpu in seen.gpus:
        found = f"{gpu['name']}, {gpu['compute_cap']}, driver {gpu['driver']}, {gpu['memory_mib']} MiB"
        report.add("GPU", True, found)
    if not seen.gpus:
        report.add("GPU", NOT_RUN, seen.problem)
    if seen.bus and seen.gpus:
        chips = sorted(str(gpu["compute_cap"]) for gpu in seen.bus)
        wanted = sorted(gpu["compute_cap"] for gpu in seen.gpus)
        text = ", ".join(f"{gpu['device']} {gpu['chip']} {gpu['compute_cap']}" for gpu in seen.bus)
        report.add("its chip by the bus is the driver's", chips == wanted, text)
    elif seen.gpus:
        report.add(
            "its chip by the bus is the driver's", NOT_RUN, "the PCI bus shows no GPU here, as in some sandboxes"
        )
    report.add("kernel module", bool(seen.loaded) or NOT_RUN, f"{seen.loaded} ({seen.flavour})")
    absent = [node for node in nvidia_host.NODES if not Path(node).exists()]  # a server's launcher waits for them
    report.add(
        "device nodes", not absent or NOT_RUN, f"no {', '.join(absent)}" if absent else ", ".join(nvidia_host.NODES)
    )
    here = nvidia_host.toolkits()
    architectures = sorted({gpu["compute_cap"].replace(".", "") for gpu in seen.gpus})
    driver = seen.gpus[0]["driver"] if seen.gpus else None
    fitting = [version for version in here if toolkits.fits(version, architectures, driver)]
    told = ", ".join(f"{version} at {nvcc}" for version, nvcc in here.items()) or "none"
    report.add("a CUDA toolkit that fits", bool(fitting) or NOT_RUN, told)
    tools = {
        "C++ compiler": find_compiler(),
        "cmake": shutil.which("cmake"),
        "ninja": shutil.which("ninja"),
    }
    for name, path in tools.items():
        report.add(name, bool(path) or NOT_RUN, f"{path}: {first_line(path)}" if path else "none")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    free = shutil.disk_usage(place.work).free >> 30
    report.add("cores, memory, disk", True, f"{len(os.sched_getaffinity(0))}, {memory} GiB, {free} GiB free")


def first_line(path: str) -> str:
    return (output_of([path, "--version"]) or "does not run").splitlines()[0]


def keep(place: Place, name: str, *argv: str) -> None:
    """Keep what a program says."""
    with contextlib.suppress(OSError), (place.details / name).open("wb") as stream:
        subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, check=False)


def driver(place: Place, report: Report) -> None:
    """Role nvidia_driver leaves a driver that works alone."""
    require_gpu(place)
    hosts = {"gpu-hosts": {"hosts": {"localhost": {
        "ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False,
    }}}}  # fmt: skip
    inventory = place.work / "gpu-hosts"
    inventory.mkdir(exist_ok=True)
    (inventory / "hosts.yml").write_text(yaml.safe_dump(hosts))
    if not (inventory / "group_vars").is_symlink():
        (inventory / "group_vars").symlink_to(ROOT / "group_vars")
    own = json.dumps({"llama_nexus_prefix": str(place.prefix), "ansible_become": False})
    status, said = play("playbooks/provision.yml", "-i", str(inventory), "--check", "-e", own)
    changes = re.search(r"changed=(\d+)", said)
    report.add(
        "a driver that works is left alone", status == 0 and changes is not None and changes[1] == "0",
        f"{changes[1] if changes else 'no'} changes planned", "" if status == 0 else reason(said),
    )  # fmt: skip


def require_gpu(place: Place) -> None:
    if not place.gpus:
        raise NotRun("the driver shows no GPU here")


# --- what the fakes claim of nvidia-smi and NVML


def nvidia_smi(place: Place, report: Report) -> None:
    """Whether the stand-in for nvidia-smi answers as the real one does, and whether roles understand that one."""
    real = shutil.which("nvidia-smi")
    if not real:
        raise NotRun("there is no nvidia-smi here")
    require_gpu(place)
    gpus = [Gpu(gpu["name"], gpu["compute_cap"], gpu["memory_mib"] or 0) for gpu in place.gpus]
    fake = FakeGpus.make(place.work / "fake", None, gpus, driver_version=place.gpus[0]["driver"])
    program = load_program(fake.folder / "nvidia-smi")
    columns = list(program.find_gpus(program.read_settings(), {})[0])
    apps = "pid,process_name,gpu_name,gpu_uuid,gpu_bus_id,used_memory"
    compare_smi(report, real, fake, "-L")
    for column in columns:
        compare_smi(report, real, fake, f"--query-gpu={column}", "--format=csv")
    compare_smi(report, real, fake, "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits")
    compare_smi(report, real, fake, f"--query-compute-apps={apps}", "--format=csv")
    compare_smi(report, real, fake, "--query-gpu=name,vram", "--format=csv")
    compare_smi(report, real, fake, "--query-gpu=name")
    compare_smi(report, real, fake, "--query-gpu=name", "--format=csv", "--id=77")
    host = host_of(gpus_of_host())
    known = [*host["gpus"], host["host_state"]["power_limit_w"], host["host_state"]["clocks_max_mhz"]]
    report.add("role llama_bench understands it", len(host["gpus"]) == len(gpus) and None not in known, host)


def load_program(path: Path) -> ModuleType:
    """The functions of a Python program."""
    loader = importlib.machinery.SourceFileLoader("fake_nvidia_smi", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def compare_smi(report: Report, real: str, fake: FakeGpus, *arguments: str) -> None:
    """Ask both; the answers must be of the same kind: status, headers, lines, and a number where one is claimed."""
    answers = []
    for program in (real, fake.folder / "nvidia-smi"):
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
        answers.append((done.returncode, done.stdout.splitlines()))
    (status, lines), (claimed_status, claimed_lines) = answers
    if any(argument.startswith("--query-compute-apps") for argument in arguments):
        lines, claimed_lines = lines[:1], claimed_lines[:1]  # others may run here
    same = status == claimed_status and len(lines) == len(claimed_lines)
    same = same and all(map(alike, lines, claimed_lines))
    shown = " ".join(arguments).replace("--query-", "").replace("--format=", "")
    report.claim(shown, same, f"{status}: {' / '.join(lines)[:200]}", f"{claimed_status}: {' / '.join(claimed_lines)}")


def alike(line: str, claimed: str) -> bool:
    """Whether two lines have cells of the same kinds; one may know what the other has not."""
    cells, others = line.split(", "), claimed.split(", ")
    return len(cells) == len(others) and all(
        kind(cell) == kind(other) or "N/A" in (kind(cell), kind(other))
        for cell, other in zip(cells, others, strict=True)
    )


def kind(cell: str) -> str:
    """What a cell is: words are themselves but for what names a GPU."""
    if cell in ("[N/A]", "[Not Supported]", "N/A"):
        return "N/A"
    number = NUMBER.fullmatch(cell)
    if number:
        return f"number {number[2] or ''}"
    cell = re.sub(r"GPU-[0-9a-f-]{36}", "GPU-UUID", cell)
    return re.sub(r"^[0-9A-F]{8}:[0-9A-F]{2}:[0-9A-F]{2}\.[0-9A-F]$", "BUS", cell)


def nvml(place: Place, report: Report) -> None:
    """Whether the driver's library is what the stand-in claims, and what telemetry makes of it."""
    source = (ROOT / "tests/fakes/nvml.c").read_text()
    numbers = dict(re.findall(r"(\w+) = (\d+)", re.search(r"enum \{(.*?)\}", source, re.DOTALL)[1]))  # type: ignore[index]  # ours has it
    for name, number in numbers.items():
        found = getattr(pynvml, f"NVML_{name}", getattr(pynvml, f"NVML_ERROR_{name}", None))
        report.claim(f"NVML's number of {name}", found == int(number), found, number)
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError as error:
        raise NotRun(f"the driver's library is not here: {error}") from error
    functions = re.findall(r"^(?:int|const char \*) ?(nvml\w+)\(", source, re.MULTILINE)
    missing = [name for name in functions if not hasattr(library, name)]
    report.claim(
        "functions of the library", not missing, ", ".join(missing) or f"all {len(functions)}", "all are there"
    )
    with sampling.Gpus() as gpus:
        report.add(
            "telemetry finds no fault", gpus.nvml_error is None, gpus.nvml_error or f"{len(gpus.inventory)} GPUs"
        )
        by_smi = [(gpu["name"], gpu["driver"], gpu["memory_mib"]) for gpu in place.gpus]
        by_nvml = [(gpu.name, gpu.driver, gpu.memory_total_mib) for gpu in gpus.inventory]
        report.add("NVML and nvidia-smi name the same GPUs", by_nvml == by_smi, by_nvml, f"nvidia-smi: {by_smi}")
        rows = gpus.read()
        for row in rows:
            for name, value in row.items():
                known = value is not None
                report.add(
                    f"GPU {row['index']}: {name}", known or DIFFERS, value, "" if known else "telemetry expects one"
                )
        before = [row["energy_j"] for row in rows]
        time.sleep(1)  # a counter has to be seen counting
        after = [row["energy_j"] for row in gpus.read()]
        grows = all(a is not None and b is not None and a > b for a, b in zip(after, before, strict=True))
        report.add("the counter of energy counts", grows or DIFFERS, f"{before} J, a second later {after} J")
        report.add("limits", None not in [value for row in gpus.limits() for value in row.values()], gpus.limits())
    with run_exporter() as url, scrape.Source("here", url) as scraped:
        seen = scraped.look().machine
        total = [gpu["memory_used_mib"] for gpu in seen.gpus] if seen else []
        report.add(
            "the exporter tells the same", bool(seen) and len(total) == len(place.gpus) and None not in total,
            f"memory used: {total} MiB", str(seen and seen.nvml_error),
        )  # fmt: skip


@contextlib.contextmanager
def run_exporter() -> Iterator[str]:
    """The exporter, without its role; its address."""
    port = free_port()
    with exporter.run("--port", str(port)) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            wait(lambda: answers(f"{url}/metrics"), "the exporter")
            yield url
        finally:
            process.kill()


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, timeout=30).status_code == httpx.codes.OK
    return False


def wait(condition: Callable[[], Any], what: str, seconds: float = 30) -> None:
    """Wait until a condition holds. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.1)


# --- from source to a server


def build(place: Place, report: Report) -> None:
    """Build the pinned version for this machine's GPU, through the role."""
    place.declare()
    if not any((place.prefix / "releases").glob("*")):
        here = nvidia_host.toolkits()
        if place.gpus and not here:
            raise NotRun("there is no CUDA compiler (nvcc) on PATH or in /usr/local/cuda*, and none was brought along")
        if not find_compiler():
            raise NotRun("there is no C++ compiler, and none was brought along")
    status, said = play("playbooks/build.yml", "-l", "local")
    if status != 0:
        report.add("release", False, reason(said))
        return
    manifest = read_manifest(str(place.release)) or {}
    inputs = manifest["inputs"]
    wanted = "cuda" if place.gpus else "cpu"
    report.add("release", inputs["backend"] == wanted, place.release.name, f"it should be for {wanted}")
    report.add("compiled in", True, f"{manifest['build_seconds']} s, ccache {manifest['ccache']}")
    if place.gpus:
        bundled = sorted(name for name in manifest["files"] if re.search(r"lib(cudart|cublas)", name))
        mib = sum(manifest["files"][name]["size"] for name in bundled) >> 20
        report.add("CUDA libraries that it brings", bool(bundled), f"{len(bundled)}, {mib} MiB")


def model(place: Place, report: Report) -> None:
    """Write the model, which babbles."""
    started = time.monotonic()
    if not place.model.exists():
        tiny_model.write(place.model, shape=place.shape)
    size = place.model.stat().st_size / 2**20
    report.add("model", True, f"{size:.0f} MiB, written in {time.monotonic() - started:.0f} s")


def deploy(place: Place, report: Report) -> None:
    """Deploy it with every layer on the GPU, and show the role's own proof."""
    require_model(place)
    place.declare()
    status, said = play("deploy.yml", "-l", "local")
    proof = place.prefix / "instances/main/proof.json"
    if proof.exists():
        shutil.copy2(proof, place.details / "proof.json")
    if status != 0:
        report.add("deployment", False, reason(said))
        return
    shown = json.loads(proof.read_text())
    for check in shown["checks"]:
        found = check["found"] if check["ok"] else f"{check['found']}, not {check['expected']}"
        if check["check"] == "command line" and check["ok"]:
            found = f"{len(check['found'])} words, as declared"
        report.add(f"proof: {check['check']}", check["ok"], found, check["cause"])
    if place.gpus:
        names = {check["check"]: check for check in shown["checks"]}
        row = names.get("process on the GPU", {"found": "no such check", "expected": ""})
        report.add("nvidia-smi shows the server's process", "MiB" in str(row["expected"]), row["found"])
        report.add("buffers", True, shown["buffers_mib"])


def require_model(place: Place) -> None:
    if not place.model.exists():
        raise NotRun("there is no model: see the step model")
    _ = place.release


def instance_log(place: Place) -> str:
    path = place.prefix / "logs/main.log"
    if not (place.prefix / "instances/main/verified").exists() or not path.exists():
        raise NotRun("the server was not deployed: see the step deploy")
    return path.read_text(errors="replace")


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
        held = held_memory({pid})
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
        return not held_memory({pid})

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


# --- how fast, and what must be refused


def speed(place: Place, report: Report) -> None:
    """The deployed server against llama-bench, which has no server around the model."""
    instance_log(place)
    prompt, output, repetitions = place.load
    medians = {}
    for engine in ("http", "llama-bench"):
        argv = [
            sys.executable, "-m", "nexus_tasks.benchmark", "localhost/main", "--engine", engine, "--prompt-tokens",
            str(prompt), "--output-tokens", str(output), "--requests", str(repetitions), "--json", "--results",
            str(place.work / "records"),
        ]  # fmt: skip
        done = subprocess.run(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
        if not done.stdout.startswith("["):
            report.add(f"{engine}: measured", False, done.stdout[-300:] or "it said nothing: see check.log")
            continue
        [answer] = json.loads(done.stdout)
        record = store.load(Path(answer["record"]))
        figures = (record.summary or {}).get("metrics") or {"decode_tps": None, "prefill_tps": None}
        # One that had nothing to be told of is None: no row may be lost for it.
        medians[engine] = {name: (figures[name] or {}).get("median") for name in ("decode_tps", "prefill_tps")}
        shown = {name: value and round(value, 1) for name, value in medians[engine].items()}
        report.add(f"{engine}: {prompt} + {output} tokens", answer["ok"], shown, ", ".join(answer["reasons"]))
        if engine == "http" and place.gpus:
            report.add("GPUs were sampled meanwhile", any(row["gpus"] for row in record.samples), energy_of(answer))
    if len(medians) == 2:
        for name, served_ in medians["http"].items():
            raw = medians["llama-bench"][name]
            if served_ and raw:
                report.add(f"served / raw, {name}", True, f"{served_ / raw:.3f}")


def energy_of(answer: dict[str, Any]) -> str:
    joules = (answer.get("energy") or {}).get("joules")
    return f"{joules:.0f} J" if joules is not None else "no energy"


def refusals(place: Place, report: Report) -> None:
    """The proof fails, and says why, where the GPU is not used as declared; the good server beside it stays."""
    instance_log(place)
    slow = {"min_decode_tps": 10_000_000}
    wrong: dict[str, tuple[dict[str, Any], str]] = {"too slow": (slow, "decode")}
    if place.gpus:
        wrong["no GPU visible"] = ({"environment": {"CUDA_VISIBLE_DEVICES": "-1"}}, "layers on the GPU")
    for name, (option, expected) in wrong.items():
        bad = {**place.instance, **option, "port": free_port()}
        more = {"llama_server_instances": {"main": place.instance, "wrong": bad}}
        status, said = play("deploy.yml", "-l", "local", "-e", json.dumps(more))
        told = reason(said)
        report.add(f"refused: {name}", status != 0 and expected in told, told if status else "it was deployed",
                   f"the reason should name: {expected}")  # fmt: skip
    url = f"http://127.0.0.1:{place.instance['port']}/health"
    report.add("the good one still serves", answers(url), url)


def stop(place: Place, report: Report) -> None:
    """End what was started."""
    if not (place.prefix / "instances").exists():
        return
    status, said = play("playbooks/stop.yml", "-l", "local")
    report.add("stopped", status == 0, "all servers" if status == 0 else reason(said))


STEPS: dict[str, Callable[[Place, Report], None]] = {
    "machine": machine, "driver": driver, "nvidia-smi": nvidia_smi, "nvml": nvml, "build": build, "model": model,
    "deploy": deploy, "log": log, "server": server, "speed": speed, "refusals": refusals, "stop": stop,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.steps", description="Run one step of the check.")
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args(argv)
    place = Place(options.work, options.pack, options.small)
    report = Report(place.work / "rows", options.step)
    try:
        STEPS[options.step](place, report)
    except NotRun as why:
        report.add("all of it" if not report.rows else "the rest of it", NOT_RUN, why)
    report.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
