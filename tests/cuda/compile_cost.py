"""What a release for one architecture saves: `python -m tests.cuda.compile_cost [ARCHITECTURE]`.

Compiles the same units of the pinned llama.cpp for one architecture and for upstream's default list, in one run, and
prints the processor time of each and their ratio.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from plugins.module_utils.llama_cpp.compilation import cmake_arguments
from plugins.module_utils.llama_cpp.job import Job
from plugins.module_utils.llama_cpp.recipe import checked_fa_quants
from plugins.module_utils.llama_cpp.release import read_manifest
from plugins.module_utils.llama_cpp.source import Source
from plugins.module_utils.llama_cpp.tools import find_compiler, find_tool
from tests import cuda
from tests.conftest import cache_folder

# What llama.cpp's build takes where nothing is said and no GPU is seen, by CUDA 13.
DEFAULT = ["75-virtual", "80-virtual", "86-real", "89-real", "90-virtual", "120a-real", "121a-real"]
# A light one, and one of each family that most of the time goes into.
UNITS = [
    "scale.cu",
    "softmax.cu",
    "template-instances/mmq-instance-q4_k.cu",
    "template-instances/fattn-vec-instance-q8_0-q8_0.cu",
    "template-instances/fattn-mma-f16-instance-ncols1_8-ncols2_8.cu",
]
FOLDER = "ggml/src/ggml-cuda/CMakeFiles/ggml-cuda.dir"


def spent() -> float:
    """The processor seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(argv: list[str]) -> None:
    one = argv[:1] or ["89"]
    console = Console()
    toolkit = cuda.make(cache_folder())
    tools_path = str(cache_folder() / "tools/bin")
    manifest = read_manifest(str((cache_folder() / "current").resolve()))
    if manifest is None:
        sys.exit("there is no release in the tests' cache yet: run nox -s tests first")
    tools = {
        "compiler": find_compiler() or "c++",
        **{name: find_tool(name, tools_path) or name for name in ("cmake", "ninja")},
        "nvcc": str(toolkit / "bin/nvcc"),
    }
    os.environ["CCACHE_DISABLE"] = "1"
    table = Table(title="processor seconds")
    for column in ("unit", f"for {', '.join(one)}", "upstream's default list", "ratio"):
        table.add_column(column, justify="left" if column == "unit" else "right")
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open() as lock:
        inputs = {
            **manifest.inputs, "backend": "cuda", "cuda_toolkit": cuda.TOOLKIT, "cpu": "portable",
            "fa_quants": checked_fa_quants(["q8_0-q8_0"]), "cuda_architectures": one,
        }  # fmt: skip
        job = Job(folder, "cost", lock=lock.fileno())
        job.make_folders()
        Source(job, inputs, tools_path=tools_path).fetch()
        for name, architectures in (("one", one), ("default", DEFAULT)):
            arguments = cmake_arguments({**inputs, "cuda_architectures": architectures}, tools)
            configure = [tools["cmake"], "-G", "Ninja", "-S", job.source, "-B", f"{folder}/{name}", *arguments]
            subprocess.run(configure, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        totals = [0.0, 0.0]
        for unit in UNITS:
            seconds = []
            for name in ("one", "default"):
                before = spent()
                command = [tools["ninja"], "-C", f"{folder}/{name}", "-j1", f"{FOLDER}/{unit}.o"]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                seconds.append(spent() - before)
            totals = [total + new for total, new in zip(totals, seconds, strict=True)]
            table.add_row(unit.rpartition("/")[2], *(f"{new:.1f}" for new in seconds), f"{seconds[0] / seconds[1]:.2f}")
        table.add_section()
        table.add_row("together", *(f"{total:.1f}" for total in totals), f"{totals[0] / totals[1]:.2f}")
    console.print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
