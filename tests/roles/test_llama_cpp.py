"""Role llama_cpp: the release it makes of the real llama.cpp, and the role on hosts, with a small tree."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import pin
from tests.conftest import ROOT, run_server, wait_for
from tests.fakes.gpus import FakeGpus
from tests.roles.llama_cpp_builds import (
    COMPILERS,
    GPUS,
    Host,
    answer,
    archive,
    executable,
    finish,
    from_archive,
    left,
    module,
    path_without,
    play,
    play_command,
    play_environment,
    read_report,
    started,
    unshare,
)
from tests.roles.llama_cpp_tree import Tree

# Building the real release first installs what the small builds need, too.
pytestmark = pytest.mark.usefixtures("release")


def test_the_manifest_names_every_file_with_its_hash_and_says_what_was_built(release: Path) -> None:
    manifest = json.loads((release / "manifest.json").read_text())
    there = {str(path.relative_to(release)) for path in release.rglob("*") if not path.is_dir()}
    assert there == {*manifest["files"], *manifest["links"], "manifest.json"}
    for name, entry in manifest["files"].items():
        data = (release / name).read_bytes()
        assert (name, entry) == (name, {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    for name, target in manifest["links"].items():
        assert (release / name).readlink() == Path(target)
    assert release.name == manifest["name"]
    assert manifest["inputs"]["ref"] == pin.REF
    assert manifest["inputs"]["commit"] == pin.COMMIT
    assert manifest["inputs"]["web_page"] == "off"


def test_the_programs_know_their_version(release: Path) -> None:
    for program in ("llama-server", "llama-bench", "llama-batched-bench", "llama-fit-params"):
        assert os.access(release / "bin" / program, os.X_OK)
    done = subprocess.run([release / "bin/llama-server", "--version"], capture_output=True, text=True, check=True)
    assert f"(build {pin.REF[1:]}, commit {pin.COMMIT[:9]})" in done.stdout + done.stderr


def test_a_release_runs_from_wherever_it_is_copied(release: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(release, tmp_path / "copy", symlinks=True)
    ours = {path.name for path in (copy / "bin").iterdir()}
    for program in ("llama-server", "llama-fit-params"):
        done = subprocess.run(["ldd", copy / "bin" / program], capture_output=True, text=True, check=True)
        found = dict(re.findall(r"^\s*(\S+) => (\S+)", done.stdout, re.MULTILINE))
        libraries = ours & found.keys()
        assert "libllama.so.0" in libraries
        assert {Path(found[name]).parent for name in libraries} == {copy / "bin"}
        subprocess.run([copy / "bin" / program, "--help"], capture_output=True, check=True)
    for name in ours:
        dynamic = subprocess.run(["readelf", "-d", copy / "bin" / name], capture_output=True, text=True, check=True)
        assert (name, re.findall(r"R(?:UN)?PATH.*\[(.*)\]", dynamic.stdout)) == (name, ["$ORIGIN"])


def test_a_release_without_the_web_page_serves_none(llama_server_bin: Path, tiny_model: Path, tmp_path: Path) -> None:
    with run_server(llama_server_bin, tiny_model, tmp_path / "log", "--ui") as running:
        assert httpx.get(f"{running.base_url}/").status_code == httpx.codes.NOT_FOUND
        assert httpx.get(f"{running.base_url}/v1/models").status_code == httpx.codes.OK


@dataclass(frozen=True)
class Deployed:
    """A host for each source, in check mode, then twice, then one of them with another flag."""

    folder: Path
    checked: dict[str, Host]
    left_by_check: list[str]
    first: dict[str, Host]
    second: dict[str, Host]
    other: Host


SOURCES = ["archive", "git"]


@pytest.fixture(scope="module")
def deployed(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """The role's way through the days of a host."""
    folder = tmp_path_factory.mktemp("deployed")
    hosts = {
        "archive": from_archive(tree),
        "git": {"llama_cpp_git_url": tree.git_url, "llama_cpp_commit": tree.commit},
    }
    checked = play(folder, hosts, "--check")
    left_by_check = sorted(path.name for path in folder.iterdir())
    first = play(folder, hosts)
    for host in hosts:
        with contextlib.suppress(FileNotFoundError):  # the test that wants it says so better
            os.utime(folder / host / "current/bin/llama-server", (0, 0))
    second = play(folder, hosts)
    flag = {"archive": from_archive(tree, llama_cpp_cmake_options={"FLAG": True})}
    return Deployed(folder, checked, left_by_check, first, second, play(folder, flag)["archive"])


@pytest.mark.parametrize("source", SOURCES)
def test_check_mode_says_changed_and_makes_nothing(deployed: Deployed, source: str) -> None:
    checked = deployed.checked[source]
    assert not checked.failed, checked.msg
    assert checked.changed > 0
    assert deployed.left_by_check == ["hosts.json"]


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_becomes_a_release_that_current_points_at(deployed: Deployed, source: str) -> None:
    first, prefix = deployed.first[source], deployed.folder / source
    assert not first.failed, first.msg
    assert first.changed > 0
    path = Path(first.release["path"])
    assert path == prefix / "releases" / first.release["name"]
    assert json.loads((path / "manifest.json").read_text()) == first.release["manifest"]
    subprocess.run([path / "bin/llama-server", "--help"], check=True)
    if source != "archive":  # that one got another release later
        assert (prefix / "current").readlink() == path
    assert list((prefix / "build").iterdir()) == []


@pytest.mark.parametrize("source", SOURCES)
def test_a_second_run_changes_nothing_whatever_the_files_dates(deployed: Deployed, source: str) -> None:
    second = deployed.second[source]
    assert (second.failed, second.changed) == (False, 0)
    assert second.release == deployed.first[source].release
    assert (Path(second.release["path"]) / "bin/llama-server").stat().st_mtime == 0


def test_another_flag_makes_another_release_and_the_old_one_stays(deployed: Deployed) -> None:
    old, new = deployed.first["archive"].release, deployed.other.release
    assert not deployed.other.failed, deployed.other.msg
    assert new["name"] != old["name"]
    assert new["manifest"]["inputs"]["cmake_options"] == {"FLAG": "True"}
    assert left(deployed.folder / "archive") == sorted([old["name"], new["name"]])
    assert (deployed.folder / "archive/current").readlink() == Path(new["path"])
    subprocess.run([Path(old["path"]) / "bin/llama-server", "--help"], check=True)


def test_a_killed_build_is_told_leaves_current_alone_and_is_taken_up_again(tree: Tree, tmp_path: Path) -> None:
    prefix, gate, progress = tmp_path / "host", tmp_path / "gate", tmp_path / "progress"
    before = module(prefix, archive(tree))
    (prefix / "current").symlink_to(before["path"])
    flags = {"GATE": str(gate)}
    command = play_command(tmp_path, {"host": from_archive(tree, llama_cpp_cmake_options=flags)})
    with subprocess.Popen(
        command, cwd=ROOT, env=play_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as playing:
        wait_for(gate.with_suffix(".reached").exists, "the build")
        assert playing.poll() is None
        job = json.loads((prefix / ".build.lock").read_text())["pid"]
        group = os.getpgid(job)
        os.killpg(group, signal.SIGSTOP)  # else one of them may live to see the other die, and say so
        os.killpg(group, signal.SIGKILL)
        report = read_report(finish(playing))
    assert report["host"].failed
    assert "the job was killed (compiling " in report["host"].msg
    assert (prefix / "current").readlink() == Path(before["path"])
    assert left(prefix) == [before["name"]]

    # Ninja puts its children into process groups of their own: one of them is at work still.
    with started(prefix, archive(tree), cmake_options=flags, _progress=str(progress)) as again:
        wait_for(progress.exists, "the next run")
        assert re.fullmatch(
            rf"waiting for process {job} \(build of \S+, which has ended; what it started has not\) since \S+\n",
            progress.read_text(),
        )
        gate.with_suffix(".open").touch()
        result = answer(again)
    assert result["changed"]
    log = Path(result["log"]).read_text()
    assert log.count("$ tar ") == 1
    assert log.count("Building CXX object CMakeFiles/llama.dir/llama.cpp.o") == 1
    assert log.count("Building CXX object CMakeFiles/llama-server.dir/server.cpp.o") == 1


@pytest.fixture(scope="module")
def poor(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Host]:
    """Hosts that lack something; those are left out that this machine can't look like."""
    folder = tmp_path_factory.mktemp("poor")

    def interpreter(name: str, command: list[str]) -> str:
        return str(executable(folder / "python" / name, f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n'))

    fakes = FakeGpus.make(folder / "fakes", None, GPUS).folder
    hosts = {
        "no_gpu": from_archive(
            tree,
            llama_cpp_require_gpu=True,
            host_environment={"PATH": path_without(folder / "no_smi", "nvidia-smi")},
        ),
    }
    # Root stays the owner of all files here, but is asked for as user 1000.
    rootless = unshare("--map-user=1000", "--map-group=1000") if os.geteuid() == 0 else []
    if rootless is not None:
        user = {"ansible_python_interpreter": interpreter("rootless", [*rootless, sys.executable])}
        hosts["no_compiler"] = from_archive(
            tree, **user, host_environment={"PATH": path_without(folder / "no_compiler", *COMPILERS, "cmake")}
        )
        hosts["no_cmake"] = from_archive(
            tree,
            **user,
            llama_nexus_tools=str(folder / "tools"),
            host_environment={"PATH": path_without(folder / "no_cmake_bin", "cmake", "ninja")},
        )
        hosts["no_toolkit"] = from_archive(
            tree,
            **user,
            llama_cpp_backend="auto",
            llama_cpp_cuda_toolkit="12.7",  # which nobody has: another may lie where it is searched whatever PATH says
            host_environment={"PATH": f"{fakes}:{path_without(folder / 'no_nvcc', 'nvcc')}"},
        )
    refused: dict[str, dict[str, Any]] = {name: hosts[name] for name in ("no_compiler", "no_toolkit") if name in hosts}
    checked = play(folder, refused, "--check") if refused else {}
    return play(folder, hosts) | {f"{name} in check mode": host for name, host in checked.items()}


def went(poor: dict[str, Host], name: str) -> Host:
    """How it went on a host; without user namespaces root can't pretend to lack rights or a toolkit."""
    if name not in poor:
        pytest.skip("this machine has no user namespaces")
    return poor[name]


def test_a_gpu_that_is_required_and_not_there_stops_the_host(poor: dict[str, Host]) -> None:
    assert poor["no_gpu"].failed
    assert "no working NVIDIA GPU on " in poor["no_gpu"].msg
    assert "or set llama_cpp_require_gpu: false for this host to serve on the processor" in poor["no_gpu"].msg


@pytest.mark.parametrize("mode", ["", " in check mode"])
def test_a_gpu_without_a_cuda_compiler_is_an_error_and_no_processor_build(poor: dict[str, Host], mode: str) -> None:
    host = went(poor, f"no_toolkit{mode}")
    assert host.failed
    assert host.msg == (
        "no_toolkit lacks the CUDA toolkit 12.7 (nvcc) to build for NVIDIA L4, NVIDIA RTX A4000, and its user may not "
        "install packages there: have root install it, name a host in llama_cpp_build_host that may, or set "
        "llama_cpp_backend: cpu to serve on the processor on purpose"
    )
    assert host.changed == 0


@pytest.mark.parametrize("mode", ["", " in check mode"])
def test_without_a_compiler_and_without_root_the_package_is_named(poor: dict[str, Host], mode: str) -> None:
    host = went(poor, f"no_compiler{mode}")
    assert host.failed
    assert "no_compiler lacks compiler to build llama.cpp, and " in host.msg
    assert host.msg.endswith("may not install packages there: have root run apt-get install g++")
    assert host.changed == 0


def test_without_root_cmake_and_ninja_come_from_the_package_index(poor: dict[str, Host]) -> None:
    host = went(poor, "no_cmake")
    assert not host.failed, host.msg
    path = Path(host.release["path"])
    subprocess.run([path / "bin/llama-server", "--help"], check=True)
    tools = path.parent.parent.parent / "tools/bin"
    assert f"$ {tools}/cmake " in (path.parent.parent / f"logs/build-{path.name}.log").read_text()
