"""Who can hold an instance's lock, or pass for a switch, and what the launcher makes of it.

The launcher of the version before locks were closed is in former_launch.txt: hosts have it in their generations.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.hostlib.instances import Instance
from plugins.module_utils.llama_server.control import restart, rollback, start, stop
from plugins.module_utils.llama_server.converge import converge
from plugins.module_utils.llama_server.desired_state import Declaration
from plugins.module_utils.llama_server.folder import Folder
from plugins.module_utils.llama_server.host import LOCK_SECONDS
from tests import strangers
from tests.conftest import ROOT, wait_for
from tests.roles.machine import Machine, deploy, status

FORK = multiprocessing.get_context("fork")
LAUNCHER = ROOT / "roles/llama_server/files/launch.py"
FORMER = ROOT / "tests/roles/former_launch.txt"


@pytest.fixture
def instance() -> Iterator[Any]:
    """The folder of an instance with two generations, which other users can enter, as the servers' must."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Folder(name, "main")


def generation(folder: Any, name: str) -> Instance:
    """A generation whose server says its name."""
    config = {
        "name": "main", "runtime": "systemd", "argv": ["/bin/echo", name], "environment": {},
        "release": {"backend": "cpu"}, "uses_gpu": False,
    }  # fmt: skip
    declaration = Declaration(Instance.from_json(config), {}, {})
    written: Instance = folder.write(declaration, declaration.identity(b"salt"), None)
    return written


def launched(folder: Any, launcher: Path = LAUNCHER, *, user: int | None = None) -> str:
    """What a launcher starts."""
    done = subprocess.run(
        ["/usr/bin/python3", "-", folder.path], input=launcher.read_text(), capture_output=True, text=True, check=False,
        user=user, group=user, extra_groups=None if user is None else [],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@contextlib.contextmanager
def switching(folder: Any, do: Callable[[], Any] = lambda: None) -> Iterator[Any]:
    """A process that holds the lock and has done something; it is killed afterwards."""

    def switch(ready: Any) -> None:
        with folder.locked(1):
            do()
            ready.set()
            signal.pause()

    ready = FORK.Event()
    process = FORK.Process(target=switch, args=(ready,))
    process.start()
    try:
        assert ready.wait(60)
        yield process
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize("user", [None, pytest.param(strangers.NOBODY, marks=strangers.needs_root)])
def test_the_launcher_starts_what_was_verified_unless_the_switch_to_another_is_alive(
    instance: Any, user: int | None
) -> None:
    old, new, other = (generation(instance, name) for name in ("old", "new", "other"))
    instance.link("verified", old)
    assert launched(instance, user=user) == "old"
    with instance.locked(1):
        assert launched(instance, user=user) == "old"
        instance.link("pending", new)
        assert launched(instance, user=user) == "new"
        assert instance.is_locked()
        instance.link("pending", None)
        assert launched(instance, user=user) == "old"
    assert not instance.is_locked()
    with switching(instance, lambda: instance.link("pending", new)) as process:
        assert launched(instance, user=user) == "new"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert os.path.islink(instance.file("pending"))  # noqa: PTH114 - a text
        assert launched(instance, user=user) == "old"
    # What a killed switch left pending does not count for the next one, which only stops or tries something else.
    with switching(instance):
        assert launched(instance, user=user) == "old"
    with instance.locked(1):
        instance.link("pending", other)
        assert launched(instance, user=user) == "other"
        instance.link("verified", other)
        instance.link("pending", new)
        assert launched(instance, user=user) == "new"
    assert launched(instance, user=user) == "other"


@strangers.needs_root
def test_whatever_a_stranger_holds_the_launcher_starts_what_was_verified(instance: Any) -> None:
    old, new = generation(instance, "old"), generation(instance, "new")
    instance.link("verified", old)
    fifo = Path(instance.generation(new.id)) / "tried"
    with switching(instance, lambda: instance.link("pending", new)) as process:
        for how in (os.O_RDONLY, os.O_RDWR):
            assert strangers.attempt(os.open, fifo, how | os.O_NONBLOCK) == "PermissionError"
            assert strangers.attempt(os.open, instance.file("switch.lock"), how) == "PermissionError"
        # The most that he can do: hold it as one who asks, whether he may or not in the folder.
        with contextlib.ExitStack() as stack:
            stack.enter_context(strangers.doing(lambda: _locked(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))))
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            assert strangers.attempt(os.open, fifo, os.O_RDONLY | os.O_NONBLOCK) == "PermissionError"
            assert launched(instance, user=strangers.NOBODY) == "old"
            assert strangers.attempt(os.unlink, fifo) == "PermissionError"
            with instance.locked(0):
                instance.link("pending", new)
                assert launched(instance, user=strangers.NOBODY) == "new"
            assert launched(instance, user=strangers.NOBODY) == "old"


def _locked(descriptor: int) -> int:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


@strangers.needs_root
def test_a_former_launcher_starts_what_was_verified_under_this_version(instance: Any) -> None:
    old, new = generation(instance, "old"), generation(instance, "new")
    instance.link("verified", old)
    instance.link("pending", new)
    lock = Path(instance.file("lock"))
    lock.touch(0o644)
    with strangers.holding(lock):
        assert launched(instance, FORMER, user=strangers.NOBODY) == "new"  # the fault
        with instance.locked(0):
            assert launched(instance, FORMER, user=strangers.NOBODY) == "old"
            instance.link("pending", new)
            assert launched(instance, FORMER, user=strangers.NOBODY) == "old"
        assert launched(instance, FORMER, user=strangers.NOBODY) == "old"
    assert not lock.exists()


def stranger_on_former_lock(folder: Any) -> contextlib.AbstractContextManager[None]:
    """Somebody holds the lock that a former version made."""
    lock = Path(folder.file("lock"))
    lock.touch(0o644)
    return strangers.holding(lock)


def at_once(do: Callable[..., Any], *arguments: Any) -> Any:
    """Do what must not wait for a lock."""
    begun = time.monotonic()
    row = do(*arguments)
    assert time.monotonic() - begun < LOCK_SECONDS / 3
    assert row["error"] is None
    return row


@strangers.needs_root
def test_what_a_former_version_deployed_is_taken_over_and_gone_back_to_whoever_holds_its_lock(machine: Machine) -> None:
    lines: list[str] = []
    [row] = deploy(machine.declaring(machine.instance("main")))
    first = row["generation"]
    [row] = deploy(machine.declaring(machine.instance("main", "--ctx-size", "512")))
    second = row["generation"]
    host = machine.declaring(machine.instance("main", "--ctx-size", "1024"), trial="always", progress=lines.append)
    folder, proof = host.folder("main"), machine.instance("main")["proof"]

    for name in (first, second):
        shutil.copy(FORMER, f"{folder.generation(name)}/launch.py")

    with stranger_on_former_lock(folder):
        assert at_once(restart, host, folder, proof)["generation"] == second
    with stranger_on_former_lock(folder):
        at_once(stop, host, folder, proof)
    with stranger_on_former_lock(folder):
        assert at_once(start, host, folder, proof)["generation"] == second
    with stranger_on_former_lock(folder):
        row = at_once(rollback, host, folder, proof)
        assert (row["generation"], row["state"]) == (first, "verified")
        assert folder.linked("verified").id == first

    with stranger_on_former_lock(folder):
        [row] = deploy(host)
    assert (row["state"], row["error"]) == ("verified", None)
    assert row["generation"] not in (first, second)
    assert folder.linked("previous").id == first
    row = at_once(rollback, host, folder, proof)
    assert (row["generation"], row["state"]) == (first, "verified")
    # One that fails brings back what a former version deployed, too.
    shutil.copy(FORMER, f"{folder.generation(first)}/launch.py")
    [row] = deploy(machine.declaring(machine.instance("main", parallel=2)))
    assert (row["state"], row["restored"]["error"]) == ("restored", None)
    assert folder.linked("verified").id == first
    assert not any("waiting for process" in line for line in lines)


def test_a_server_that_dies_after_its_switch_was_killed_is_started_as_verified(machine: Machine) -> None:
    host = machine.declaring(machine.instance("main", "--ctx-size", "512"))
    [row] = deploy(host)
    changed = machine.declaring(machine.instance("main", "--ctx-size", "1024"))
    old = status(host).pid
    switch = FORK.Process(target=converge, args=(changed, ["main"]))
    switch.start()
    tried = wait_for(lambda: status(host).pid not in (None, old) and status(host).pid, "the new server")
    wait_for(lambda: "1024" in cmdline(tried), "the launcher to become it")
    os.kill(switch.pid or 0, signal.SIGKILL)
    switch.join()
    os.kill(tried, signal.SIGKILL)
    again = wait_for(lambda: status(host).pid not in (None, tried) and status(host).pid, "another server")
    wait_for(lambda: "512" in cmdline(again), "what was verified")
    [row] = deploy(host)
    assert (row["state"], row["error"]) == ("verified", None)


def cmdline(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def test_who_waits_for_a_switch_is_told_within_two_seconds_for_which(machine: Machine) -> None:
    deploy(machine.declaring(machine.instance("main")))
    host = machine.declaring(machine.instance("main", "--ctx-size", "512"))
    folder, proof = host.folder("main"), machine.instance("main")["proof"]
    steps: dict[str, Callable[[Any], Any]] = {
        "deployment": lambda host: converge(host, ["main"])[0],
        "restart": lambda host: restart(host, folder, proof),
        "stop": lambda host: stop(host, folder, proof),
        "start": lambda host: start(host, folder, proof),
        "rollback": lambda host: rollback(host, folder, proof),
    }
    for step in steps.values():
        told: list[tuple[float, str]] = []
        with switching(folder) as process:

            def tell(line: str, told: Any = told, process: Any = process) -> None:
                told.append((time.monotonic(), line))
                process.kill()

            begun = time.monotonic()
            row = step(machine.declaring(machine.instance("main", "--ctx-size", "512"), progress=tell))
        assert row["error"] is None
        at, line = told[0]
        assert at - begun < 2
        assert line.startswith(f"main: waiting for process {process.pid} (switch of main) since 20")
