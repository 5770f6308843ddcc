"""Role llama_cpp on a fleet: releases that one host builds for others, those that are kept, upstream's own binaries."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import modules
from tests.conftest import ROOT
from tests.fakes.gpus import FakeGpus, Gpu
from tests.roles import llama_cpp_tree
from tests.roles.llama_cpp_builds import (
    COMPILERS,
    Host,
    archive,
    executable,
    from_archive,
    left,
    path_without,
    play,
    refusal,
)
from tests.roles.llama_cpp_builds import MODULE as RELEASE
from tests.roles.llama_cpp_builds import module as build
from tests.roles.llama_cpp_tree import Tree

pytestmark = pytest.mark.usefixtures("release")

SHIP = ROOT / "plugins/modules/llama_cpp_ship.py"
RETAIN = ROOT / "plugins/modules/llama_cpp_retain.py"
GPUS = [Gpu("NVIDIA L4", "8.9", 23034), Gpu("NVIDIA H100 80GB HBM3", "9.0", 81559), Gpu("NVIDIA B200", "10.0", 183359)]


@dataclass(frozen=True)
class Fleet:
    """Twenty hosts with three kinds of GPUs, and one that builds for them; a run, and another."""

    folder: Path
    checked: dict[str, Host]
    first: dict[str, Host]
    second: dict[str, Host]

    def logs(self) -> list[str]:
        """What the builds printed."""
        return [path.read_text() for path in sorted((self.folder / "builder/logs").glob("build-*.log"))]


@pytest.fixture(scope="module")
def fleet(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """The run, with a limit that leaves the host out that builds."""
    folder = tmp_path_factory.mktemp("fleet")
    executable(folder / "nvcc/nvcc", "#!/bin/sh\necho 'Cuda compilation tools, release 13.2, V13.2.78'\n")
    paths = []
    for gpu in GPUS:
        fakes = FakeGpus.make(folder / gpu.name.split()[-1], None, [gpu], driver_version="580.95.05").folder
        paths.append(f"{fakes}:{folder / 'nvcc'}:{os.environ['PATH']}")
    hosts: dict[str, dict[str, Any]] = {"builder": {}}
    for number in range(20):
        hosts[f"rig-{number}"] = from_archive(
            tree,
            llama_cpp_backend="auto",
            llama_cpp_build_host="builder",
            host_environment={"PATH": paths[number % len(paths)]},
        )
    checked = play(folder, hosts, "--limit", "rig-0", "--check")
    first = play(folder, hosts, "--limit", "rig-*")
    second = play(folder, hosts, "--limit", "rig-0,rig-1,rig-2")
    return Fleet(folder, checked, first, second)


def test_one_host_builds_each_release_once_however_many_need_it(fleet: Fleet) -> None:
    assert {host.msg for host in fleet.first.values()} == {""}
    assert len(fleet.first) == 20
    assert len(fleet.logs()) == len(GPUS)
    assert [log.count("Building CXX object CMakeFiles/llama.dir/llama.cpp.o") for log in fleet.logs()] == [1, 1, 1]
    assert {host.release["name"].rpartition("-")[0] for host in fleet.first.values()} == {
        "b1-cuda89",
        "b1-cuda90",
        "b1-cuda100",
    }


def test_every_host_has_its_release_whole_and_nothing_is_left_on_the_way(fleet: Fleet) -> None:
    for name, host in fleet.first.items():
        path = fleet.folder / name / "releases" / host.release["name"]
        manifest = json.loads((path / "manifest.json").read_text())
        assert (name, manifest["inputs"]["cpu"]) == (name, "portable")
        assert (fleet.folder / name / "current").readlink() == path
        subprocess.run([path / "bin/llama-server", "--help"], check=True)
        assert list(path.parent.iterdir()) == [path]
    made = {host.release["name"] for host in fleet.first.values()}
    assert {path.name for path in (fleet.folder / "builder/releases").iterdir()} == made
    on_controller = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "llama-nexus/releases")
    assert not [path for path in on_controller.glob("*.tar") if path.stem in made]


def test_a_second_run_of_the_fleet_changes_nothing(fleet: Fleet) -> None:
    assert {(host.changed, host.failed) for host in fleet.second.values()} == {(0, False)}
    assert {name: host.release for name, host in fleet.second.items()} == {
        name: fleet.first[name].release for name in fleet.second
    }


def test_check_mode_says_what_would_be_made_and_makes_nothing(fleet: Fleet) -> None:
    checked = fleet.checked["rig-0"]
    assert (checked.msg, checked.changed > 0) == ("", True)
    assert checked.release["name"] == fleet.first["rig-0"].release["name"]


# --- What can go wrong on the way ---


def said(path: Path, **arguments: Any) -> str:
    """The message of a call of a module that must fail."""
    result = modules.call(path, arguments)
    assert result.get("failed"), result
    assert "\n" not in result["msg"]
    return str(result["msg"])


@pytest.fixture
def packed(tree: Tree, tmp_path: Path) -> tuple[str, Path]:
    """A release of the small source, packed: its name and the file."""
    made = build(tmp_path / "builder", archive(tree))
    result = modules.call(SHIP, {"state": "packed", "prefix": str(tmp_path / "builder"), "name": made["name"]})
    return made["name"], Path(result["archive"])


def test_a_release_that_was_damaged_on_its_way_is_refused_and_the_old_one_stays(
    packed: tuple[str, Path], tmp_path: Path
) -> None:
    name, file = packed
    there = {"state": "unpacked", "prefix": str(tmp_path / "rig"), "name": name, "built_on": "builder"}
    old = tmp_path / "rig/releases" / name
    good = file.read_bytes()
    whole = file.with_name("whole.tar")
    whole.write_bytes(good)
    assert modules.call(SHIP, {**there, "archive": str(whole)})["changed"]
    assert not whole.exists()
    before = (old / "manifest.json").read_bytes()

    position = good.index((old / "bin/llama-server").read_bytes()[:4096]) + 2000
    file.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
    damaged = said(SHIP, **there, archive=str(file))
    assert damaged == f"bin/llama-server of release {name} was damaged on its way from builder: run the play again"
    file.write_bytes(good[: len(good) // 2])
    assert "tar failed: tar: Unexpected EOF in archive" in said(SHIP, **there, archive=str(file))
    file.write_bytes(good)
    assert "does not hold the whole release other" in said(SHIP, **{**there, "name": "other"}, archive=str(file))
    assert (left(tmp_path / "rig"), (old / "manifest.json").read_bytes()) == ([name], before)


def test_a_release_that_does_not_run_on_its_host_is_refused_with_who_built_it(tree: Tree, tmp_path: Path) -> None:
    made = build(tmp_path / "builder", archive(tree))
    server = Path(made["path"]) / "bin/llama-server"
    executable(server, '#!/bin/sh\necho "GLIBC_2.99 not found" >&2\nexit 127\n')
    manifest = json.loads((server.parent.parent / "manifest.json").read_text())
    data = server.read_bytes()
    manifest["files"]["bin/llama-server"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (server.parent.parent / "manifest.json").write_text(json.dumps(manifest))
    file = modules.call(SHIP, {"state": "packed", "prefix": str(tmp_path / "builder"), "name": made["name"]})["archive"]
    message = said(
        SHIP, state="unpacked", prefix=str(tmp_path / "rig"), name=made["name"], built_on="builder", archive=file
    )
    assert f"release {made['name']}, built on builder, does not run here" in message
    assert "(llama_cpp_build_host)" in message
    assert "GLIBC_2.99 not found" in message
    assert left(tmp_path / "rig") == []


def test_a_host_of_another_kind_is_refused_as_builder(tree: Tree, tmp_path: Path) -> None:
    wanted = build(tmp_path, archive(tree), portable=True, _state="probed")["inputs"]
    other = {**wanted, "machine": "riscv64"}
    message = said(RELEASE, prefix=str(tmp_path), state="probed", inputs=other)
    assert re.search(r"can't build for riscv64, it is \w+: name another host in llama_cpp_build_host", message)


def test_a_failed_build_is_told_to_all_that_wait_for_it(tree: Tree, tmp_path: Path) -> None:
    hosts: dict[str, dict[str, Any]] = {"builder": {}}
    for number in range(2):
        hosts[f"rig-{number}"] = from_archive(
            tree, llama_cpp_build_host="builder", llama_cpp_cmake_options={"BROKEN": "ON"}
        )
    hosts["rig-2"] = from_archive(tree, llama_cpp_build_host="nobody")
    went = play(tmp_path, hosts, "--limit", "rig-*")
    assert "not_declared" in went["rig-0"].msg
    assert re.fullmatch(
        r"release \S+ could not be built on builder: what happened stands with rig-0, for which it was tried",
        went["rig-1"].msg,
    )
    assert went["rig-2"].msg == "llama_cpp_build_host is nobody, which is no host of the inventory"
    assert all(host.failed for host in went.values())


# --- Which are kept ---


def test_the_newest_releases_are_kept_and_those_in_use(tmp_path: Path) -> None:
    for number in range(6):
        release = tmp_path / "releases" / f"b{number}"
        release.mkdir(parents=True)
        (release / "manifest.json").write_text("{}")
        os.utime(release / "manifest.json", (number, number))
    (tmp_path / "releases/.b9.partial").mkdir()
    (tmp_path / "build/b8/source").mkdir(parents=True)
    (tmp_path / "current").symlink_to(tmp_path / "releases/b0")
    arguments = {"prefix": str(tmp_path), "keep": 2, "used": [str(tmp_path / "releases/b2")]}
    would = modules.call(RETAIN, {**arguments, "_ansible_check_mode": True})
    assert (would["changed"], would["removed"], would["kept"]) == (True, ["b3", "b1"], ["b5", "b4", "b2", "b0"])
    assert len(left(tmp_path)) == 7
    with (tmp_path / ".build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert modules.call(RETAIN, arguments)["removed"] == ["b3", "b1"]
        assert (tmp_path / "build/b8").exists()  # a build goes on
    assert left(tmp_path) == [".b9.partial", "b0", "b2", "b4", "b5"]
    assert not modules.call(RETAIN, arguments)["changed"]
    assert left(tmp_path) == ["b0", "b2", "b4", "b5"]
    assert list((tmp_path / "build").iterdir()) == []
    assert "llama_cpp_keep_releases is 0: at least 1 is kept" in said(RETAIN, **{**arguments, "keep": 0})


# --- Upstream's own binaries ---


def binaries(folder: Path, commit: str) -> Path:
    """An archive of the shape of upstream's: one folder with programs and libraries."""
    top = folder / "llama-b1"
    executable(top / "llama-server", f"#!/bin/sh\necho 'version: 1 ({commit})' >&2\n")
    (top / "libllama.so.0").write_bytes(b"library")
    (top / "llama-cli").write_bytes(b"not asked for")
    (top / "LICENSE").write_text("MIT\n")
    llama_cpp_tree.pack(top, folder / "binaries.tar.gz", "llama-b1")
    return folder / "binaries.tar.gz"


def test_upstream_binaries_become_a_release_without_a_compiler(tmp_path: Path) -> None:
    main = binaries(tmp_path, "ccccccccc")
    cuda = tmp_path / "cudart"
    cuda.mkdir()
    (cuda / "libcudart.so.13").write_bytes(b"cudart")
    llama_cpp_tree.pack(cuda / "libcudart.so.13", tmp_path / "cudart.tar.gz", "libcudart.so.13")  # without a folder
    hosts = {
        "rig": {
            "llama_cpp_source": "binary",
            "llama_cpp_binaries": [
                {"url": str(path), "sha256": llama_cpp_tree.sha256(path)} for path in (main, tmp_path / "cudart.tar.gz")
            ],
            "host_environment": {"PATH": path_without(tmp_path / "bin", *COMPILERS, "cmake", "ninja")},
        }
    }
    first, second = play(tmp_path, hosts)["rig"], play(tmp_path, hosts)["rig"]
    assert (first.msg, first.changed > 0, second.changed) == ("", True, 0)
    manifest = first.release["manifest"]
    assert sorted(manifest["files"]) == ["LICENSE", "bin/libcudart.so.13", "bin/libllama.so.0", "bin/llama-server"]
    assert (manifest["compiler"], manifest["inputs"]["source"]["kind"]) == (None, "binary")


def test_binaries_of_another_commit_or_without_the_programs_are_refused(tmp_path: Path) -> None:
    other = binaries(tmp_path, "ddddddddd")

    def source(path: Path, **changed: str) -> dict[str, Any]:
        entry = {"url": str(path), "sha256": llama_cpp_tree.sha256(path), **changed}
        return {"kind": "binary", "archives": [entry]}

    message = refusal(tmp_path, source(other))
    assert "the archives of llama_cpp_binaries hold commit ddddddddd, not ccccccccc" in message
    assert "hold no llama-bench: are they those for Linux?" in refusal(
        tmp_path, source(other), targets=["llama-server", "llama-bench"]
    )
    assert "it is not the archive that was declared" in refusal(tmp_path, source(other, sha256="0" * 64))
    executable(tmp_path / "llama-b1/llama-server", "\x7fELF of another kind of machine")
    llama_cpp_tree.pack(tmp_path / "llama-b1", other, "llama-b1")
    assert "llama-server does not run: Exec format error" in refusal(tmp_path, source(other))
    assert left(tmp_path) == []
