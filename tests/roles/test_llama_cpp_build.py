"""Builds of role llama_cpp, its module called as Ansible does on a host."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import modules
from tests.conftest import wait_for
from tests.fakes.gpus import FakeGpus
from tests.roles.llama_cpp_builds import (
    GPUS,
    MODULE,
    NVCC,
    answer,
    archive,
    executable,
    left,
    module,
    refusal,
    started,
)
from tests.roles.llama_cpp_tree import Tree
from tests.support import small_disk

# Building the real release first installs what the small builds need, too.
pytestmark = pytest.mark.usefixtures("release")


def test_a_damaged_release_is_built_again(tree: Tree, tmp_path: Path) -> None:
    made = module(tmp_path / "prefix", archive(tree))
    path = Path(made["path"])
    whole = shutil.copytree(path, tmp_path / "whole", symlinks=True)
    for damage in (
        (path / "bin/llama-server").unlink,
        (path / "bin/libllama.so.0").unlink,
        (path / "manifest.json").unlink,
        lambda: (path / "manifest.json").write_text("{"),
        lambda: os.truncate(path / "bin/libllama.so.0.1.0", 100),
    ):
        shutil.rmtree(path)
        shutil.copytree(whole, path, symlinks=True)
        assert module(tmp_path / "prefix", archive(tree), _state="probed")["present"]
        damage()
        assert not module(tmp_path / "prefix", archive(tree), _state="probed")["present"]
    again = module(tmp_path / "prefix", archive(tree))
    assert (again["changed"], again["path"]) == (True, made["path"])
    subprocess.run([path / "bin/llama-server", "--help"], check=True)
    assert not module(tmp_path / "prefix", archive(tree))["changed"]
    assert left(tmp_path / "prefix") == [made["name"]]
    assert list((tmp_path / "prefix/build").iterdir()) == []


def test_a_second_run_waits_for_the_first_and_takes_what_it_made(tree: Tree, tmp_path: Path) -> None:
    gate, progress = tmp_path / "gate", tmp_path / "progress"
    options = {"cmake_options": {"GATE": str(gate)}, "_progress": str(progress)}
    prefix = tmp_path / "prefix"
    with started(prefix, archive(tree), **options) as first:
        wait_for(gate.with_suffix(".reached").exists, "the first build")
        with started(prefix, archive(tree), **options) as second:
            waiting = f"waiting for process {first.pid} (build of "
            wait_for(lambda: progress.read_text().startswith(waiting), "the second run to wait")
            gate.with_suffix(".open").touch()
            results = [answer(first), answer(second)]
    assert [result["changed"] for result in results] == [True, True]
    assert results[0]["manifest"] == results[1]["manifest"]
    assert Path(results[0]["log"]).read_text().count("Building CXX object") == 2


def test_what_comes_out_of_the_compiler_names_the_release(tree: Tree, tmp_path: Path) -> None:
    def name(**options: Any) -> str:
        result = module(tmp_path, {**archive(tree), **options.pop("source", {})}, _state="probed", **options)
        return str(result["name"])

    names = [
        name(),
        name(cmake_options={"A": "1"}),
        name(commit="d" * 40),
        name(source={"sha256": "0" * 64}),
        name(targets=["llama-server", "llama-bench"]),
        name(web_page="npm"),
        name(portable=True),
    ]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"b1-cpu-[0-9a-f]{8}", one) for one in names)
    assert name(require_gpu=False, _jobs=7) == names[0]


def test_what_cannot_name_a_release_or_be_built_is_refused(tree: Tree, tmp_path: Path) -> None:
    for ref in ("feature/x", "--upload-pack=x", ""):
        assert f"llama_cpp_ref is {ref!r}: name a tag, as in b11434" in refusal(tmp_path, archive(tree), ref=ref)
    assert "llama_cpp_targets is empty" in refusal(tmp_path, archive(tree), targets=[])


def test_a_release_is_the_same_under_every_prefix(tree: Tree, tmp_path: Path) -> None:
    one, other = (module(tmp_path / prefix, archive(tree)) for prefix in ("one", "another prefix"))
    assert one["manifest"]["files"] == other["manifest"]["files"]
    assert b"llama.cpp/llama.cpp\0" in (Path(one["path"]) / "bin/libllama.so").read_bytes()


def test_a_compile_error_is_told_with_its_line_and_the_log(tree: Tree, tmp_path: Path) -> None:
    message = refusal(tmp_path, archive(tree), cmake_options={"BROKEN": "ON"})
    assert re.search(
        r"compiling failed \(ninja\): \S*server\.cpp:4:\d+: error: .not_declared. was not declared", message
    )
    log = re.search(r"\(the log is (.+)\)$", message)
    assert log is not None
    assert "int broken = not_declared;" in Path(log[1]).read_text()
    assert left(tmp_path) == []


def test_a_program_that_does_not_run_becomes_no_release(tree: Tree, tmp_path: Path) -> None:
    message = refusal(tmp_path, archive(tree), cmake_options={"SICK": "ON"})
    assert "llama-server does not run: exit status 3" in message
    assert not module(tmp_path, archive(tree), cmake_options={"SICK": "ON"}, _state="probed")["present"]


def test_a_web_page_that_could_not_be_downloaded_is_an_error_until_it_can(tree: Tree, tmp_path: Path) -> None:
    message = refusal(tmp_path, archive(tree), web_page="prebuilt")
    assert "web page could not be downloaded" in message
    assert "or set llama_cpp_web_page: npm or off" in message
    made = module(tmp_path, archive(tree), web_page="prebuilt", cmake_options={"WEB": "ON"})
    assert made["manifest"]["inputs"]["web_page"] == "prebuilt"


@small_disk.needs_mount
def test_a_full_disk_is_told_and_the_release_that_is_there_stays_whole(tree: Tree, tmp_path: Path) -> None:
    with small_disk.mounted(tmp_path, "440m"):
        first = module(tmp_path, archive(tree))
        during = refusal(tmp_path, archive(tree), cmake_options={"MIB": "460"})
        assert f"no space left on the file system of {tmp_path} (" in during
        assert "make room, or set llama_nexus_prefix to a larger disk" in during
        with (tmp_path / "filler").open("wb") as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(1 << 20))
        for options in ({"MIB": "460"}, {"A": "1"}):  # one that goes on, one that would begin
            message = refusal(tmp_path, archive(tree), cmake_options=options)
            assert f"no space left on the file system of {tmp_path} (0 MiB free)" in message
        # Told before anything is installed for a build.
        wanted = {**first["inputs"], "cmake_options": {"A": "1"}}
        before = modules.call(MODULE, {"prefix": str(tmp_path), "inputs": wanted, "state": "probed"})
        assert before["msg"].startswith("a build needs about 400 MiB: no space left on the file system of ")
        page = modules.call(
            MODULE, {"prefix": str(tmp_path), "inputs": {**wanted, "web_page": "npm"}, "state": "probed"}
        )
        assert page["msg"].startswith("a build needs about 1100 MiB: ")
        assert module(tmp_path, archive(tree), _state="probed")["present"]
        subprocess.run([f"{first['path']}/bin/llama-server", "--help"], check=True)
        (tmp_path / "filler").unlink()
        assert module(tmp_path, archive(tree), cmake_options={"A": "1"})["changed"]


def test_the_gpus_of_the_driver_choose_the_backend_and_the_architectures(tree: Tree, tmp_path: Path) -> None:
    FakeGpus.make(tmp_path / "fakes", None, GPUS)
    nvcc = executable(tmp_path / "fakes/nvcc", NVCC)
    path = f"{tmp_path / 'fakes'}:{os.environ['PATH']}"
    made = module(tmp_path, archive(tree), path, backend="auto", require_gpu=True)
    assert [(gpu["name"], gpu["compute_cap"], gpu["memory_mib"]) for gpu in made["gpus"]] == [
        ("NVIDIA L4", "8.9", 23034),
        ("NVIDIA RTX A4000", "8.6", 16376),
    ]
    assert made["name"].startswith("b1-cuda86-89-")
    inputs = made["manifest"]["inputs"]
    assert (inputs["backend"], inputs["cuda_architectures"], inputs["cuda_toolkit"]) == ("cuda", ["86", "89"], "12.8")
    log = Path(made["log"]).read_text()
    assert "-DGGML_CUDA=ON" in log
    assert f"-DCMAKE_CUDA_COMPILER={nvcc} -DCMAKE_CUDA_ARCHITECTURES=86;89" in log

    executable(nvcc, NVCC.replace("12.8", "13.0"))
    assert not module(tmp_path, archive(tree), path, backend="auto", _state="probed")["present"]
    asked = module(tmp_path, archive(tree), path, backend="cuda", cuda_architectures=["120", "89"], _state="probed")
    assert asked["name"].startswith("b1-cuda89-120-")
    other = module(tmp_path, archive(tree), path, backend="cuda", cuda_architectures=["89", "120"], _state="probed")
    assert other["name"] == asked["name"]
    assert module(tmp_path, archive(tree), path, backend="cpu", _state="probed")["name"].startswith("b1-cpu-")


def cuda_toolkit(folder: Path) -> Path:
    """A folder like a toolkit's: a compiler that knows its version, and libraries that need each other."""
    executable(folder / "bin/nvcc", NVCC)
    (folder / "lib64").mkdir()
    for name, needs in (("cublasLt", []), ("cublas", ["cublasLt"]), ("cudart", [])):
        source = f"int {name}() {{ return 0; }}\n".encode()
        linked = [f"-l:lib{need}.so.13" for need in needs]
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-x", "none", f"-Wl,-soname,lib{name}.so.13",
             "-Wl,-rpath,$ORIGIN", "-Wl,--no-as-needed", f"-L{folder}/lib64", *linked,
             "-o", folder / f"lib64/lib{name}.so.13"],
            input=source, check=True,
        )  # fmt: skip
    return folder


def test_a_cuda_release_brings_the_libraries_and_needs_no_toolkit_any_more(tree: Tree, tmp_path: Path) -> None:
    toolkit = cuda_toolkit(tmp_path / "cuda")
    path = f"{toolkit / 'bin'}:{os.environ['PATH']}"
    options = {"backend": "cuda", "cuda_architectures": ["89"], "cuda_toolkit": "12.8", "portable": True}
    made = module(tmp_path / "prefix", archive(tree), path, **options, cmake_options={"CUDA": str(toolkit)})
    folder = Path(made["path"]) / "bin"
    brought = {"libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13"}
    assert brought < {file.name for file in folder.iterdir()}
    assert {f"bin/{name}" for name in brought} < set(made["manifest"]["files"])
    shutil.rmtree(toolkit)
    done = subprocess.run(["ldd", folder / "libggml-cuda.so"], capture_output=True, text=True, check=True)
    found = dict(re.findall(r"^\s*(\S+) => (\S+)", done.stdout, re.MULTILINE))
    assert {found[name] for name in brought} == {str(folder / name) for name in brought}


def test_without_a_working_driver_auto_is_the_processor_and_cuda_asks_what_for(tree: Tree, tmp_path: Path) -> None:
    FakeGpus.make(tmp_path / "fakes", None, smi_status=9, smi_error="NVIDIA-SMI has failed")
    path = f"{tmp_path / 'fakes'}:{os.environ['PATH']}"
    seen = module(tmp_path, archive(tree), path, backend="auto", _state="probed")
    assert (seen["gpus"], seen["name"].startswith("b1-cpu-")) == ([], True)
    message = refusal(tmp_path, archive(tree), path, backend="cuda", _state="probed")
    assert "set llama_cpp_cuda_architectures, for example ['89']" in message
