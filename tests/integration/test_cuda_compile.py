"""What role llama_cpp asks of a real CUDA compiler, for every kind of GPU that one toolkit knows. No GPU is needed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugins.module_utils.llama_cpp.compilation import cmake_arguments
from plugins.module_utils.llama_cpp.job import Job
from plugins.module_utils.llama_cpp.recipe import checked_fa_quants
from plugins.module_utils.llama_cpp.release import read_manifest
from plugins.module_utils.llama_cpp.source import Source
from plugins.module_utils.llama_cpp.tools import find_compiler, find_tool
from plugins.module_utils.nvidia import toolkits
from tests import cuda
from tests.conftest import cache_folder

# As the driver would name the GPUs; 12X becomes 12Xa in llama.cpp's own build.
ARCHITECTURES = ["75", "80", "86", "89", "90", "100", "103", "120", "121"]
UNIT = "ggml/src/ggml-cuda/CMakeFiles/ggml-cuda.dir/scale.cu.o"


@pytest.fixture(scope="module")
def toolkit() -> Path:
    """The toolkit that the role would install for these GPUs."""
    assert toolkits.toolkit_for(ARCHITECTURES, driver="580.95.05") == cuda.TOOLKIT
    return cuda.make(cache_folder())


@pytest.fixture(scope="module")
def job(release: Path, toolkit: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """A build of the pinned version for all of them, its source fetched as the role does."""
    folder = tmp_path_factory.mktemp("cuda")
    manifest = read_manifest(str(release))
    assert manifest
    inputs = {
        **manifest.inputs,
        "backend": "cuda",
        "cuda_architectures": ARCHITECTURES,
        "cuda_toolkit": cuda.TOOLKIT,
        "fa_quants": checked_fa_quants(["q8_0-q4_0"]),
        "cpu": "portable",
    }
    tools_path = str(cache_folder() / "tools/bin")
    tools = {
        "compiler": find_compiler() or "c++",
        **{name: find_tool(name, tools_path) or name for name in ("cmake", "ninja")},
        "nvcc": str(toolkit / "bin/nvcc"),
    }
    with (folder / "lock").open("w") as lock:
        made = Job(str(folder), "cuda", lock=lock.fileno())
        made.make_folders()
        Source(made, inputs, tools_path=tools_path).fetch()
        made.run(
            [tools["cmake"], "-G", "Ninja", "-S", made.source, "-B", made.objects,
             *cmake_arguments(inputs, tools)], step="configuring",
        )  # fmt: skip
        yield made


def test_one_unit_is_compiled_for_every_architecture(job: Job, toolkit: Path) -> None:
    ninja = find_tool("ninja", str(cache_folder() / "tools/bin"))
    assert ninja
    job.run([ninja, "-C", job.objects, UNIT], step="compiling")
    listing = subprocess.run(
        [toolkit / "bin/cuobjdump", "--list-elf", f"{job.objects}/{UNIT}"], capture_output=True, text=True, check=True
    ).stdout
    blackwell = {"120": "120a", "121": "121a"}
    assert set(re.findall(r"sm_(\w+)\.cubin", listing)) == {blackwell.get(one, one) for one in ARCHITECTURES}


def test_kernels_are_configured_for_the_declared_cache_types_and_no_others(job: Job) -> None:
    plan = Path(job.objects, "build.ninja").read_text()
    assert set(re.findall(r"fattn-vec-instance-([\w-]+)\.cu\.o:", plan)) == {"f16-f16", "q8_0-q4_0"}


def test_what_happens_to_be_installed_is_no_part_of_the_build(job: Job) -> None:
    cache = Path(job.objects, "CMakeCache.txt").read_text()
    for option, value in {
        "GGML_CUDA_NCCL": "OFF", "GGML_NATIVE": "OFF", "GGML_BACKEND_DL": "ON", "LLAMA_OPENSSL": "OFF"
    }.items():  # fmt: skip
        assert re.search(rf"^{option}:\w+={value}$", cache, re.MULTILINE)
    assert "CMAKE_CUDA_ARCHITECTURES:UNINITIALIZED=" + ";".join(ARCHITECTURES) in cache or (
        "CMAKE_CUDA_ARCHITECTURES:STRING=" + ";".join(ARCHITECTURES) in cache
    )
