"""Compilation: CMake's options, the compiler's run, the CUDA libraries beside what came out.

Python 3.9's standard library only.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import shutil
from typing import Any

from ..hostlib.programs import output_of, with_environment
from ..nvidia.facts import toolkit_folder
from .errors import ReleaseError
from .job import Job
from .recipe import build_number

# What is put beside the programs, so that a release runs where no toolkit is installed. The driver's own libcuda isn't.
CUDA_LIBRARIES = re.compile(r"lib(cudart|cublas|cublasLt|nccl|nvJitLink)\.so[.\d]*")


def cmake_arguments(inputs: dict[str, Any], tools: dict[str, Any]) -> list[str]:
    """The options of a build; those of the recipe come last and win."""
    portable = inputs["cpu"] == "portable"
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "BUILD_SHARED_LIBS": "ON",
        # Programs and libraries share one folder, so a release can be moved or copied as it is.
        "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
        "CMAKE_INSTALL_RPATH": "$ORIGIN",
        "CMAKE_CXX_COMPILER": tools["compiler"],
        "CMAKE_MAKE_PROGRAM": tools["ninja"],
        "GGML_NATIVE": "OFF" if portable else "ON",
        # Backends as plugins, and one for each generation of processors: the host's best is chosen when it starts.
        "GGML_BACKEND_DL": "ON" if portable else "OFF",
        "GGML_CPU_ALL_VARIANTS": "ON" if portable else "OFF",
        "GGML_CUDA": "ON" if inputs["backend"] == "cuda" else "OFF",
        "LLAMA_BUILD_TESTS": "OFF",
        "LLAMA_BUILD_EXAMPLES": "OFF",
        "LLAMA_BUILD_APP": "OFF",
        # Models are fetched and verified beforehand, and TLS ends at the gateway.
        "LLAMA_OPENSSL": "OFF",
        "LLAMA_BUILD_UI": "ON" if inputs["web_page"] == "npm" else "OFF",
        "LLAMA_USE_PREBUILT_UI": "ON" if inputs["web_page"] == "prebuilt" else "OFF",
        # Sources without git history would call themselves build 0 or 1.
        "LLAMA_BUILD_NUMBER": build_number(inputs["ref"]) or "0",
        "LLAMA_BUILD_COMMIT": inputs["commit"][:9],
    }
    if inputs["backend"] == "cuda":
        options["CMAKE_CUDA_COMPILER"] = tools["nvcc"]
        # Else the libraries would be those of the host's default toolkit, which need not be the compiler's.
        toolkit = toolkit_folder(tools["nvcc"])
        if os.path.exists(os.path.join(toolkit, "include", "cuda_runtime.h")):
            options["CUDAToolkit_ROOT"] = toolkit
        options["CMAKE_CUDA_ARCHITECTURES"] = ";".join(inputs["cuda_architectures"])
        options["GGML_CUDA_FA_QUANTS"] = ";".join(inputs["fa_quants"])
        # What happens to be installed must not decide what a release is made of.
        options["GGML_CUDA_NCCL"] = "OFF"
    options.update(inputs["cmake_options"])
    return [f"-D{key}={value}" for key, value in options.items()]


def compile_programs(job: Job, inputs: dict[str, Any], tools: dict[str, Any], processes: int) -> None:
    """Compile the targets.

    Args:
        processes: compilers at a time; 0: one a processor.
    """
    job.say("configuring")
    # Without paths of the build in the objects, ccache serves any prefix and a release is the same under each.
    env = {"CCACHE_BASEDIR": job.work, "CCACHE_NOHASHDIR": "1", "CCACHE_STATSLOG": _ccache_log(job)}
    for flags in ("CFLAGS", "CXXFLAGS"):
        mapping = shlex.quote(f"-ffile-prefix-map={job.source}=llama.cpp")
        env[flags] = f"{os.environ.get(flags, '')} {mapping}".strip()
    job.run(
        [tools["cmake"], "-G", "Ninja", "-S", job.source, "-B", job.objects,
         *cmake_arguments(inputs, tools)], env=env, step="configuring",
    )  # fmt: skip
    jobs = processes or len(os.sched_getaffinity(0))
    job.run(
        [tools["ninja"], "-C", job.objects, "-j", str(jobs), *inputs["targets"]],
        env={**env, "NINJA_STATUS": "[%f/%t] "}, step="compiling",
    )  # fmt: skip


def cache_hits(job: Job) -> dict[str, int] | None:
    """Compilations that ccache answered and those that it did not, over all tries; None without ccache."""
    hits = misses = 0
    with contextlib.suppress(OSError), open(_ccache_log(job), encoding="utf-8") as stream:
        for line in stream:
            hits += line.strip() in ("direct_cache_hit", "preprocessed_cache_hit")
            misses += line.strip() == "cache_miss"
    return {"hits": hits, "misses": misses} if hits or misses else None


def _ccache_log(job: Job) -> str:
    return os.path.join(job.work, "ccache.log")


def require_web_page(job: Job, inputs: dict[str, Any]) -> None:
    """Stop where the page was asked for and is not in the program, which llama.cpp's build lets pass."""
    kind = inputs["web_page"]
    if kind == "off":
        return
    page = os.path.join(job.objects, "tools", "ui")
    generated = os.path.join(page, "ui.cpp")
    with open(generated, encoding="utf-8", errors="replace") as stream:
        there = "index.html" in stream.read()
    if not there and kind == "npm":
        raise ReleaseError(
            f"llama.cpp's web page could not be built with npm, and the build went on without it: see {job.log}, "
            "or set llama_cpp_web_page: off"
        )
    if not there:
        raise ReleaseError(
            "llama.cpp's web page could not be downloaded, and the build went on without it: let this host "
            "reach the internet, or set llama_cpp_web_page: npm or off"
        )
    # Where this version's page is not to be had, llama.cpp takes the latest one.
    if kind == "prebuilt" and job.logged("resolved: ")[-1:] == ["latest"]:
        raise ReleaseError(
            f"there is no web page of {inputs['ref']} to download, only another version's: set "
            "llama_cpp_web_page: npm or off"
        )


def bundle_cuda(built: str, nvcc: str) -> None:
    """Copy the toolkit's libraries that the programs need, so that they run where no toolkit is installed."""
    toolkit = toolkit_folder(nvcc)
    places = [os.path.join(toolkit, name) for name in ("lib64", "lib", f"targets/{platform.machine()}-linux/lib")]
    search = os.pathsep.join([built, *places])
    english = with_environment(LD_LIBRARY_PATH=search, LC_ALL="C.UTF-8")
    due = [os.path.join(built, name) for name in os.listdir(built) if re.match(r"libggml-cuda\.so|libggml\.so", name)]
    while due:
        listing = output_of(["ldd", due.pop()], env=english) or ""
        for name, path in re.findall(r"^\s*(\S+) => (\S.*?)(?: \(0x[0-9a-f]+\))?$", listing, re.MULTILINE):
            if not CUDA_LIBRARIES.fullmatch(name) or os.path.exists(os.path.join(built, name)):
                continue
            if path == "not found":
                raise ReleaseError(f"the CUDA backend needs {name}, which is not in the toolkit {toolkit}")
            shutil.copy2(path, os.path.join(built, name))
            due.append(os.path.join(built, name))
