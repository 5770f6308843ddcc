"""Locks between runs on a host: who can hold them, who waits for whom, and what is told."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.model_store import tiny_model
from plugins.module_utils.hostlib import locks
from plugins.module_utils.hostlib.manifests import Manifest
from plugins.module_utils.llama_cpp import build as llama_cpp_build
from plugins.module_utils.llama_cpp.errors import ReleaseError
from plugins.module_utils.llama_cpp.release import write_manifest
from plugins.module_utils.llama_server.errors import HostError
from plugins.module_utils.llama_server.folder import Folder
from plugins.module_utils.nvidia import driver_state
from plugins.module_utils.nvidia.errors import DriverError
from tests import modules, strangers
from tests.conftest import ROOT, wait_for

FORK = multiprocessing.get_context("fork")
HOST_CODE = sorted(
    path
    for place in ("nexus_tasks", "plugins", "roles/*/files")
    for path in ROOT.glob(f"{place}/**/*.py")
)  # fmt: skip


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can enter; those of pytest they can't."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextlib.contextmanager
def running(do: Callable[[Any], Any]) -> Iterator[Any]:
    """A process that does something with an event which it sets when it is so far; it is killed afterwards."""
    ready = FORK.Event()
    process = FORK.Process(target=do, args=(ready,))
    process.start()
    try:
        assert ready.wait(60)
        yield process
    finally:
        process.kill()
        process.join()


def hold(path: Path, what: str = "deployment of main") -> Callable[[Any], None]:
    """Hold a lock until the end of the process."""

    def do(ready: Any) -> None:
        with locks.held(str(path), what):
            ready.set()
            signal.pause()

    return do


def hold_as_formerly(path: Path, mode: int = 0o644) -> Callable[[Any], None]:
    """Hold a lock as former versions did."""

    def do(ready: Any) -> None:
        with path.open("a") as stream:
            path.chmod(mode)
            fcntl.flock(stream, fcntl.LOCK_EX)
            ready.set()
            signal.pause()

    return do


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


@strangers.needs_root
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o177, 0o777])
def test_nobody_else_can_open_a_lock_whatever_the_umask(folder: Path, umask: int) -> None:
    path, before = folder / "lock", os.umask(umask)
    try:
        for _ in range(2):  # made, and found
            with locks.held(str(path), "build of b1"):
                assert mode_of(path) == 0o600
                for how in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
                    assert strangers.attempt(os.open, path, how) == "PermissionError"
    finally:
        os.umask(before)


@strangers.needs_root
@pytest.mark.parametrize("mode", [0o644, 0o666, 0o640, 0o604])
def test_a_stranger_who_holds_a_former_versions_lock_is_not_waited_for(folder: Path, mode: int) -> None:
    path = folder / "lock"
    told: list[str] = []
    path.touch()
    path.chmod(mode)
    with strangers.holding(path):
        with locks.held(str(path), "build of b1", wait=0, waiting=told.append):
            assert mode_of(path) == 0o600
            with running(lambda ready: ready.set() if locks.holder(str(path)) else None):
                pass  # another run sees it held all the same
        with locks.held(str(path), "build of b2", wait=0):
            pass
    assert told == []
    assert [entry.name for entry in folder.iterdir()] == ["lock"]


@pytest.mark.parametrize("moved", [False, True])
def test_a_run_of_a_former_version_is_waited_for_and_named(folder: Path, moved: bool) -> None:
    path = folder / "lock"
    told: list[str] = []
    where: dict[str, Any] = (
        {"path": str(folder / "switch.lock"), "formerly": str(path)} if moved else {"path": str(path)}
    )
    with running(hold_as_formerly(path)) as former:
        with pytest.raises(locks.LockHeld) as busy, locks.held(what="restart", wait=0, **where):
            pass
        assert str(busy.value.holder) == f"process {former.pid} (a run of another version)"

        def let_go(line: str) -> None:
            told.append(line)
            former.kill()

        with locks.held(what="restart", wait=60, waiting=let_go, **where):
            assert moved == (not path.exists())
            assert mode_of(Path(where["path"])) == 0o600
    assert told == [f"{verb} for process {former.pid} (a run of another version)" for verb in ("waiting", "waited")]


def test_what_a_killed_run_of_a_former_version_started_is_waited_for(folder: Path) -> None:
    path = folder / "lock"
    with path.open("a") as stream:
        path.chmod(0o644)
        fcntl.flock(stream, fcntl.LOCK_EX)
        with subprocess.Popen(["sleep", "600"], pass_fds=[stream.fileno()]) as compiler:
            stream.close()
            with (
                pytest.raises(locks.LockHeld, match=f"process {compiler.pid} "),
                locks.held(str(path), "build", wait=0),
            ):
                pass
            compiler.kill()
    with locks.held(str(path), "build", wait=0):
        pass


def test_who_waits_is_told_at_once_for_whom_and_since_when(folder: Path) -> None:
    path = folder / "lock"
    told: list[str] = []
    with running(hold(path)) as holder:
        begun = time.monotonic()
        with (
            pytest.raises(locks.LockHeld, match="wait for its end"),
            locks.held(str(path), "x", wait=1, waiting=told.append),
        ):
            pass
        assert time.monotonic() - begun >= 1
        assert len(told) == 1
        assert re.fullmatch(
            rf"waiting for process {holder.pid} \(deployment of main\) since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00",
            told[0],
        )
        os.kill(holder.pid, signal.SIGKILL)
        with locks.held(str(path), "x", wait=60):  # nothing is left to be cleaned up
            assert str(locks.holder(str(path))).startswith(f"process {os.getpid()} (x) since ")
    assert locks.holder(str(path)) is None


def test_a_lock_is_held_as_long_as_a_child_that_was_to_hold_it_lives(folder: Path) -> None:
    path = folder / "lock"

    def build(ready: Any) -> None:
        with locks.held(str(path), "build of b1") as lock:
            subprocess.Popen(["sh", "-c", "echo $$ > $0; exec sleep 600", folder / "pid"], pass_fds=[lock])
            wait_for((folder / "pid").exists, "the compiler")
            ready.set()
            signal.pause()

    with running(build) as builder:
        builder.kill()
        builder.join()
        with pytest.raises(locks.LockHeld) as busy, locks.held(str(path), "x", wait=0):
            pass
        assert f"process {builder.pid} (build of b1, which has ended; what it started has not)" in str(
            busy.value.holder
        )
        os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
        with locks.held(str(path), "x", wait=60):
            pass


@pytest.mark.parametrize("former", [False, True])
def test_one_run_at_a_time_whatever_each_finds(folder: Path, former: bool) -> None:
    """Whoever holds the lock removes it each time, or finds one that a stranger holds."""
    path, count, runs, rounds = folder / "lock", folder / "count", 4, 25
    count.write_text("0")
    if former:
        path.touch(0o644)

    def run(start: Any) -> None:
        start.wait()
        for _ in range(rounds):
            with locks.held(str(path), "run"):
                count.write_text(str(int(count.read_text()) + 1))
                if not former:
                    path.unlink()

    start = FORK.Event()
    held_by_nobody = former and os.geteuid() == 0
    with strangers.holding(path) if held_by_nobody else contextlib.nullcontext():
        processes = [FORK.Process(target=run, args=(start,)) for _ in range(runs)]
        for process in processes:
            process.start()
        start.set()
        for process in processes:
            process.join()
    assert [process.exitcode for process in processes] == [0] * runs
    assert int(count.read_text()) == runs * rounds


def test_a_lock_whose_folder_goes_while_it_is_waited_for_is_made_anew(folder: Path) -> None:
    path, waited_for = folder / "main" / "switch.lock", FORK.Event()

    def remove(ready: Any) -> None:
        with locks.held(str(path), "removal"):
            ready.set()
            waited_for.wait()
            shutil.rmtree(path.parent)

    with running(remove), locks.held(str(path), "deployment", wait=60, waiting=lambda line: waited_for.set()):
        assert locks.holder(str(path))


def refused(path: Path) -> str:
    with pytest.raises(locks.LockError) as error, locks.held(str(path), "build of b1", wait=0):
        pass
    assert "\n" not in str(error.value)
    return str(error.value)


@strangers.needs_root
def test_a_lock_that_a_stranger_has_put_there_is_refused_with_his_name(folder: Path) -> None:
    folder.chmod(0o777)
    for mode in (0o600, 0o666):
        path = folder / f"lock{mode}"
        assert strangers.attempt(os.close, os.open(path, os.O_CREAT, mode)) == ""
        path.chmod(mode)
        os.chown(path, strangers.NOBODY, strangers.NOBODY)
        assert refused(path) == (
            f"the lock {path} belongs to nobody (uid 65534), who could hold it for ever: remove it, and let nobody "
            "else write to its folder"
        )
    # In a folder like /tmp the kernel itself refuses to open it, where fs.protected_regular says so.
    folder.chmod(0o1777)
    assert "belongs to nobody" in refused(path)
    assert path.read_bytes() == b""


def test_a_lock_that_is_no_plain_file_is_refused_and_not_written_into(folder: Path) -> None:
    secret = folder / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    (folder / "link").symlink_to(secret)
    (folder / "dangling").symlink_to(folder / "new")
    os.link(secret, folder / "hard")
    os.mkfifo(folder / "fifo", 0o600)
    (folder / "folder").mkdir()
    for name in ("link", "dangling", "hard", "fifo", "folder"):
        assert refused(folder / name) == f"the lock {folder / name} is no plain file with one name: remove it"
    assert secret.read_text() == "secret"
    assert not (folder / "new").exists()


def test_a_full_disk_takes_a_lock_all_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with locks.held(str(folder / "lock"), "x"):
        assert str(locks.holder(str(folder / "lock"))) == "another run"


def retain(folder: Path) -> str:
    arguments = {"prefix": str(folder), "keep": 1, "used": []}
    return str(modules.call(ROOT / "plugins/modules/llama_cpp_retain.py", arguments).get("msg", ""))


def build(folder: Path) -> str:
    """A build that finds what it was to make."""
    release = folder / "releases/b1"
    release.mkdir(parents=True)
    write_manifest(str(release), Manifest(name="b1"))
    try:
        llama_cpp_build.build({"prefix": str(folder), "progress": None}, {}, "b1", {})
    except ReleaseError as error:
        return str(error)
    return ""


def model(folder: Path) -> str:
    path = folder / "here.gguf"
    tiny_model.write(path)
    arguments = {"name": "model", "dir": str(folder), "profile": {"path": str(path)}}
    return str(modules.call(ROOT / "plugins/modules/gguf_file.py", arguments).get("msg", ""))


def bench(folder: Path) -> str:
    (folder / "main/verified").mkdir(parents=True)
    (folder / "main/verified/instance.json").write_text(json.dumps({"runtime": "supervisor", "environment": {}}))
    arguments: dict[str, Any] = {"action": "run", "run": "one", "folder": str(folder), "user": ""}
    arguments |= {"instance": str(folder / "main"), "commands": [["/bin/true"]]}
    return str(modules.call(ROOT / "plugins/modules/llama_bench.py", arguments).get("msg", ""))


def driver(folder: Path) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver_state, "LOCK", str(folder / "nvidia-driver.lock"))
        try:
            with driver_state.alone(lambda line: None):
                return ""
        except DriverError as error:
            return str(error)


def instance(folder: Path) -> str:
    try:
        with Folder(str(folder.parent), folder.name).locked(0):
            return ""
    except HostError as error:
        return str(error)


LOCKED = [
    (".build.lock", retain), (".build.lock", build), (".model.lock", model), ("lock", bench),
    ("nvidia-driver.lock", driver), ("switch.lock", instance),
]  # fmt: skip
locked = pytest.mark.parametrize(("name", "work"), LOCKED, ids=[work.__name__ for _, work in LOCKED])


@strangers.needs_root
@locked
def test_no_work_waits_for_a_stranger_who_held_its_lock_and_he_can_not_any_more(
    folder: Path, name: str, work: Callable[[Path], str]
) -> None:
    path = folder / name
    path.touch(0o644)
    with strangers.holding(path):
        assert work(folder) == ""
    assert mode_of(path) == 0o600
    assert strangers.attempt(os.open, path, os.O_RDONLY) == "PermissionError"


@strangers.needs_root
@locked
def test_work_whose_lock_a_stranger_has_put_there_says_so_in_one_line(
    folder: Path, name: str, work: Callable[[Path], str]
) -> None:
    path = folder / name
    path.touch(0o600)
    os.chown(path, strangers.NOBODY, strangers.NOBODY)
    told = work(folder)
    assert f"the lock {path} belongs to nobody (uid 65534), who could hold it for ever: remove it" in told
    assert "\n" not in told


def calls(path: Path) -> set[str]:
    """The names of locking that a program uses."""
    names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    names |= {
        name.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
        for name in node.names
    }  # fmt: skip
    return {name for name in names if name in ("flock", "lockf") or re.match(r"(F_(OFD_)?SETLKW?|LOCK_(EX|SH))$", name)}


def test_locks_are_taken_in_one_place() -> None:
    assert [path for path in HOST_CODE if calls(path)] == [ROOT / "plugins/module_utils/hostlib/locks.py"]
