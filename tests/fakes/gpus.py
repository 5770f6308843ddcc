"""GPUs that are not there: a folder that makes this machine look as if it had some.

    gpus = FakeGpus.make(folder, build(release), [Gpu("NVIDIA L4", "8.9", 23034)])
    subprocess.run([llama_server, "--device", gpus.devices, "--n-gpu-layers", "99", ...],
                   env={**os.environ, **gpus.environment})
    gpus.set(delay_ms=20)                        # it is slow from the next token on
    gpus.set(fail="hang")                        # and now it answers nothing but /health; the delay is gone

The folder holds ``libggml-cuda.so`` (ggml_gpu.cpp, which lists the settings), ``nvidia-smi`` and the settings of both,
``gpus.conf``. ``environment`` has nvidia-smi on the PATH and the library in GGML_BACKEND_PATH; a unit needs only the
second, and a path that it can read: PrivateTmp hides what is below /tmp. :meth:`FakeGpus.release` makes a release that
has CUDA built in: its programs need no variable and no ``--device``, like real ones.

On a host in a container, mount the folder and link nvidia-smi into the PATH: gpus.conf is found through links.

What this can't show: the speed of a GPU, and anything that CUDA itself does wrong.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from plugins.module_utils.hostlib.manifests import Manifest
from plugins.module_utils.llama_cpp.job import Job
from plugins.module_utils.llama_cpp.recipe import checked_fa_quants, release_name
from plugins.module_utils.llama_cpp.release import write_manifest
from plugins.module_utils.llama_cpp.source import Source
from plugins.module_utils.llama_cpp.tools import find_compiler
from plugins.module_utils.nvidia import toolkits
from tests.conftest import ROOT, cache_folder

HERE = Path(__file__).parent
LIBRARY = "libggml-cuda.so"
DRIVER = "580.95.05"


@dataclass(frozen=True)
class Gpu:
    """One GPU of the machine.

    Args:
        compute_cap: as in "8.9".
        memory_mib: its memory.
        occupied_mib: what others hold of it.
    """

    name: str = "NVIDIA L4"
    compute_cap: str = "8.9"
    memory_mib: int = 23034
    occupied_mib: int = 0


@dataclass(frozen=True)
class FakeGpus:
    """A machine's GPUs, in a folder."""

    folder: Path
    gpus: tuple[Gpu, ...]
    built: Path | None

    @classmethod
    def make(cls, folder: Path, built: Path | None, gpus: Sequence[Gpu] = (Gpu(),), **settings: object) -> Self:
        """Fill the folder.

        Args:
            built: what :func:`build` returned; None where nvidia-smi is enough.
            settings: those of :meth:`set`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        made = cls(folder.resolve(), tuple(gpus), built)
        for source in (HERE / "nvidia-smi", *([built / LIBRARY] if built else [])):
            new = folder / f"{source.name}.new"
            shutil.copy2(source, new)
            new.replace(folder / source.name)  # a running server keeps the one that it has
        made.set(**settings)
        return made

    @property
    def library(self) -> Path:
        """The backend."""
        return self.folder / LIBRARY

    @property
    def devices(self) -> str:
        """All devices, as ``--device`` takes them."""
        return ",".join(f"CUDA{index}" for index in range(len(self.gpus)))

    @property
    def uuids(self) -> list[str]:
        """The GPUs' UUIDs. They are the folder's own: tests at the same time don't see each other's processes."""
        return [f"GPU-{uuid.uuid5(uuid.NAMESPACE_URL, f'{self.folder}#{index}')}" for index in range(len(self.gpus))]

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a process that finds nvidia-smi and the backend."""
        return {"PATH": f"{self.folder}:{os.environ['PATH']}", "GGML_BACKEND_PATH": str(self.library)}

    def set(self, **settings: object) -> None:
        """Write the settings; running servers notice. What is not named goes back to its default.

        Args:
            settings: ``delay_ms``, ``fail``, ``arithmetic``, ``context_mib`` (ggml_gpu.cpp says what they do);
                ``driver_version``, ``processes``, ``smi_status``, ``smi_error`` (nvidia-smi does).
        """
        values: dict[str, object] = {"driver_version": DRIVER, "context_mib": 300, "count": len(self.gpus)}
        for index, gpu in enumerate(self.gpus):
            values |= {
                f"gpu.{index}.uuid": self.uuids[index],
                f"gpu.{index}.name": gpu.name,
                f"gpu.{index}.compute_cap": gpu.compute_cap,
                f"gpu.{index}.bus_id": f"0000:{0x3B + index:02x}:00.0",
                f"gpu.{index}.memory_mib": gpu.memory_mib,
                f"gpu.{index}.occupied_mib": gpu.occupied_mib,
            }
        unknown = settings.keys() - {
            "delay_ms", "fail", "arithmetic", "context_mib", "driver_version", "processes", "smi_status", "smi_error",
        }  # fmt: skip
        if unknown:
            raise TypeError(f"no such setting: {', '.join(sorted(unknown))}")
        values |= settings
        new = self.folder / "gpus.conf.new"
        new.write_text("".join(f"{key} = {value}\n" for key, value in values.items()))
        new.replace(self.folder / "gpus.conf")

    def smi(self, *arguments: str, status: int = 0) -> str:
        """What nvidia-smi prints; it must end with this status."""
        done = subprocess.run([self.folder / "nvidia-smi", *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (status, ""), done
        return done.stdout

    def release(self, prefix: Path, release: Path, toolkit: str | None = None, library: Path | None = None) -> Path:
        """Install a release for these GPUs below a prefix, as role llama_cpp would have built it, and make it current.

        Args:
            release: the CPU release that it is made from.
            toolkit: the version of the CUDA toolkit on the host, where it has one: as the role finds it, so that a play
                finds the release there and builds nothing.
            library: the backend's path on the host that will run it, where the folder has another path there.
        """
        assert self.built, "these GPUs have no backend"
        architectures = sorted({gpu.compute_cap.replace(".", "") for gpu in self.gpus}, key=int)
        defaults = yaml.safe_load((ROOT / "roles/llama_cpp/defaults/main.yml").read_text())
        before = json.loads((release / "manifest.json").read_text())
        inputs = {
            **before["inputs"],
            "backend": "cuda",
            "cuda_architectures": architectures,
            "cuda_toolkit": toolkit or toolkits.toolkit_for(architectures, None),
            "fa_quants": checked_fa_quants(defaults["llama_cpp_fa_quants"]),
        }
        path: Path = prefix / "releases" / release_name(inputs)
        shutil.copytree(release, path, symlinks=True)
        for program in self.built.glob("llama-*"):
            shutil.copy2(program, path / "bin")
        (path / "bin" / LIBRARY).symlink_to(library or self.library)
        write_manifest(str(path), Manifest.from_json({**before, "name": path.name, "inputs": inputs}))
        current = prefix / "current"
        current.unlink(missing_ok=True)
        current.symlink_to(path)
        return path


def headers(release: Path) -> Path:
    """The folder of ggml's headers that a release was built with, kept in the cache.

    The source is fetched and checked by the code that fetched it for the release: from its package, archive or
    repository.
    """
    inputs: dict[str, Any] = json.loads((release / "manifest.json").read_text())["inputs"]
    kept = cache_folder() / "fakes" / f"ggml-{inputs['commit']}"
    if kept.exists():
        return kept
    work = cache_folder() / "fakes" / "source"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    with (work / "lock").open("w") as lock:
        job = Job(str(work), "headers", lock=lock.fileno())
        job.make_folders()
        Source(job, inputs, tools_path=str(cache_folder() / "tools" / "bin")).fetch()
    ggml = Path(job.source) / "ggml"
    partial = work / "headers"
    shutil.copytree(ggml / "include", partial)
    for name in ("ggml-backend-impl.h", "ggml-impl.h"):
        shutil.copy2(ggml / "src" / name, partial)
    partial.replace(kept)
    shutil.rmtree(work)
    return kept


def build(release: Path) -> Path:
    """Compile the backend and a release's programs with it; the folder, kept in the cache.

    Raises:
        subprocess.CalledProcessError: the compiler is not content.
    """
    folder = cache_folder() / "fakes"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:  # two runs of the tests may want it at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        digest = hashlib.sha256(release.name.encode())
        for source in (HERE / "ggml_gpu.cpp", HERE / "cuda_main.cpp", Path(__file__)):
            digest.update(source.read_bytes())
        built = folder / f"cuda-{digest.hexdigest()[:16]}"
        if not built.exists():
            partial = folder / "cuda.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            compile_backend(partial, release)
            partial.replace(built)
    return built


def compile_backend(folder: Path, release: Path) -> None:
    """Compile into a folder."""
    compiler = find_compiler()
    assert compiler, "a C++ compiler is needed: apt-get install g++"
    compile_it: list[str | Path] = [compiler, "-std=c++20", "-O1", "-Wall", "-isystem", headers(release)]
    # ggml's functions are found in the program that loads it, whichever release that is from.
    subprocess.run([*compile_it, "-shared", "-fPIC", HERE / "ggml_gpu.cpp", "-o", folder / LIBRARY], check=True)
    for library in (release / "bin").glob("libllama-*-impl.so"):
        program = library.name.removeprefix("lib").removesuffix("-impl.so")
        subprocess.run(
            [
                *compile_it, f"-DENTRY={program.replace('-', '_')}", HERE / "cuda_main.cpp", "-o", folder / program,
                f"-L{folder}", f"-L{release / 'bin'}", f"-l:{LIBRARY}", f"-l:{library.name}", "-lggml",
                "-Wl,--allow-shlib-undefined", "-Wl,-rpath,$ORIGIN",
            ],
            check=True,
        )  # fmt: skip
