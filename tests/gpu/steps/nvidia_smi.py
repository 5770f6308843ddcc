"""Claims of the fake nvidia-smi, held against the real one."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

from plugins.module_utils.llama_bench.host_state import gpus_of_host, host_of
from tests.fakes.gpus import FakeGpus, Gpu
from tests.gpu.rows import NotRun, Report
from tests.gpu.steps.place import Place, require_gpu

NUMBER = re.compile(r"-?\d+(\.\d+)?( ?(MiB|W|%|MHz))?")


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
