"""What role llama_cpp asks of a real CUDA compiler, for every kind of GPU that one toolkit knows. No GPU is needed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.llama_cpp import build as build_utils
from plugins.module_utils.llama_cpp import recipe as recipe_utils
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
def build(release: Path, toolkit: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A build of the pinned version for all of them, its source fetched as the role does."""
    folder = tmp_path_factory.mktemp("cuda")
    manifest = recipe_utils.read_manifest(str(release))
    inputs = {
        **manifest["inputs"],
        "backend": "cuda",
        "cuda_architectures": ARCHITECTURES,
        "cuda_toolkit": cuda.TOOLKIT,
        "fa_quants": recipe_utils.checked_fa_quants(["q8_0-q4_0"]),
        "cpu": "portable",
    }
    tools_path = str(cache_folder() / "tools/bin")
    tools = {
        "compiler": recipe_utils.find_compiler(),
        **{name: recipe_utils.find_tool(name, tools_path) for name in ("cmake", "ninja")},
        "nvcc": str(toolkit / "bin/nvcc"),
    }
    params = {"prefix": str(folder), "tools_path": tools_path, "progress": None, "jobs": 2}
    with (folder / "lock").open("w") as lock:
        task = build_utils.Build(params, inputs, "cuda", tools, lock.fileno())
        for path in (task.work, str(folder / "logs")):
            Path(path).mkdir(parents=True)
        task.fetch()
        task.command(
            [tools["cmake"], "-G", "Ninja", "-S", task.source, "-B", task.objects,
             *build_utils.cmake_arguments(inputs, tools)], step="configuring",
        )  # fmt: skip
        yield task


def test_one_unit_is_compiled_for_every_architecture(build: Any, toolkit: Path) -> None:
    build.command([build.tools["ninja"], "-C", build.objects, UNIT], step="compiling")
    listing = subprocess.run(
        [toolkit / "bin/cuobjdump", "--list-elf", f"{build.objects}/{UNIT}"], capture_output=True, text=True, check=True
    ).stdout
    blackwell = {"120": "120a", "121": "121a"}
    assert set(re.findall(r"sm_(\w+)\.cubin", listing)) == {blackwell.get(one, one) for one in ARCHITECTURES}


def test_kernels_are_configured_for_the_declared_cache_types_and_no_others(build: Any) -> None:
    plan = Path(build.objects, "build.ninja").read_text()
    assert set(re.findall(r"fattn-vec-instance-([\w-]+)\.cu\.o:", plan)) == {"f16-f16", "q8_0-q4_0"}


def test_what_happens_to_be_installed_is_no_part_of_the_build(build: Any) -> None:
    cache = Path(build.objects, "CMakeCache.txt").read_text()
    for option, value in {
        "GGML_CUDA_NCCL": "OFF", "GGML_NATIVE": "OFF", "GGML_BACKEND_DL": "ON", "LLAMA_OPENSSL": "OFF"
    }.items():  # fmt: skip
        assert re.search(rf"^{option}:\w+={value}$", cache, re.MULTILINE)
    assert "CMAKE_CUDA_ARCHITECTURES:UNINITIALIZED=" + ";".join(ARCHITECTURES) in cache or (
        "CMAKE_CUDA_ARCHITECTURES:STRING=" + ";".join(ARCHITECTURES) in cache
    )
