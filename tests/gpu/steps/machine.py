"""The machine and its driver, as the roles see them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from plugins.module_utils.hostlib.programs import output_of
from plugins.module_utils.llama_cpp.tools import find_compiler
from plugins.module_utils.nvidia import facts as nvidia_facts
from plugins.module_utils.nvidia import toolkits
from tests.conftest import ROOT
from tests.gpu.rows import NOT_RUN, Report
from tests.gpu.steps.place import Place, require_gpu
from tests.gpu.steps.playbooks import play, reason


def machine(place: Place, report: Report) -> None:
    """What is there, as the roles see it."""
    keep(place, "nvidia-smi-q.txt", "nvidia-smi", "-q")
    keep(place, "cpu.txt", "lscpu")
    seen = nvidia_facts.look()
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
    absent = [node for node in nvidia_facts.NODES if not Path(node).exists()]  # a server's launcher waits for them
    report.add(
        "device nodes", not absent or NOT_RUN, f"no {', '.join(absent)}" if absent else ", ".join(nvidia_facts.NODES)
    )
    here = nvidia_facts.toolkits()
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
