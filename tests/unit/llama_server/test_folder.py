"""Folder of an instance: what is left of it wherever a run is killed, and who may change it meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.hostlib import files, locks
from plugins.module_utils.hostlib.instances import Instance
from plugins.module_utils.llama_server.desired_state import Declaration
from plugins.module_utils.llama_server.folder import Folder, folders

FORK = multiprocessing.get_context("fork")
STEPS = ("os.", "shutil.", "open", "tempfile.", "ctypes.")  # what of a run touches the disk, as audit events say it
DECLARED = Declaration(
    Instance.from_json({"name": "main", "runtime": "systemd", "argv": ["/bin/true"]}),
    {"launch.py": "pass\n", "keys": "sk-a-key\n", "chat_template.jinja": "{{ messages }}"},
    {},
)


def killed_at(step: int, do: Callable[[], object]) -> bool:
    """Do something in a process that is killed before its nth step on the disk; False where it came to its end."""

    def run() -> None:
        left = step

        def count(event: str, _: object) -> None:
            nonlocal left
            if event.startswith(STEPS) and event != "os.kill":
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        do()
        os._exit(0)

    process = FORK.Process(target=run)
    process.start()
    process.join(60)
    return process.exitcode == -signal.SIGKILL


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An instance with a verified generation."""
    instance = Folder(str(tmp_path), "main")
    identity = DECLARED.identity(b"salt")
    instance.link("verified", instance.write(DECLARED, identity, None))
    return instance


@pytest.mark.parametrize("exchange", [True, False], ids=["exchanged", "file system without exchange"])
def test_a_repair_that_is_killed_leaves_the_verified_generation(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    identity = DECLARED.identity(b"salt")
    if not exchange:
        monkeypatch.setattr(files, "_exchanged", lambda one, other: False)
    launcher = Path(folder.generation(identity)) / "launch.py"
    found, missing = [], 0
    for step in range(1000):
        launcher.write_text("altered\n")
        was_killed = killed_at(step, lambda: folder.write(DECLARED, identity, None))
        verified = folder.linked("verified")
        missing += verified is None
        if verified is None:
            assert not exchange
            folder.write(DECLARED, identity, None)
        assert folder.linked("verified") is not None
        found.append(launcher.read_text())
        assert set(folder.differs(DECLARED, identity)) <= {"launch.py"}
        if not was_killed:
            break
    assert len(found) > 20  # it was killed
    assert found[0] == "altered\n"
    assert found[-1] == "pass\n"
    assert missing <= (0 if exchange else 2)
    folder.tidy()
    assert os.listdir(folder.file("generations")) == [identity]  # noqa: PTH208 - a text


def test_what_has_the_name_of_a_generation_and_is_none_is_replaced(folder: Folder) -> None:
    identity = DECLARED.identity(b"salt")
    files.remove_tree(folder.generation(identity))
    Path(folder.generation(identity)).write_text("a file\n")
    folder.write(DECLARED, identity, None)
    assert folder.differs(DECLARED, identity) == []


def test_a_removal_holds_the_lock_until_nothing_else_is_left(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = Path(folder.file("switch.lock"))
    for number in range(3):
        Path(folder.file(f"{'az'[number % 2]}{number}")).write_text("x")
    seen: list[tuple[bool, int]] = []
    unlink, rmdir = os.unlink, os.rmdir

    def look() -> None:
        left = [path for path in Path(folder.path).rglob("*") if path != lock]
        seen.append((locks.holder(str(lock)) is not None, len(left)))

    def unlinked(*arguments: Any, **options: Any) -> None:
        look()
        unlink(*arguments, **options)

    def removed(*arguments: Any, **options: Any) -> None:
        look()
        rmdir(*arguments, **options)

    monkeypatch.setattr(os, "unlink", unlinked)
    monkeypatch.setattr(os, "rmdir", removed)
    with folder.locked(0, "removal"):
        folder.remove()
    assert seen[0][1] > 5
    assert all(held for held, left in seen if left)
    assert not Path(folder.path).exists()


def test_a_run_that_waited_for_a_removal_has_the_lock_that_all_see(folder: Folder) -> None:
    def wait(ready: Event, told: Connection) -> None:
        with Folder(folder.root, folder.name).locked(60, waiting=lambda line: ready.set()):
            told.send(locks.holder(folder.file("switch.lock")) is not None)
            told.recv()

    ready, (here, there) = FORK.Event(), FORK.Pipe()
    process = FORK.Process(target=wait, args=(ready, there))
    with folder.locked(0, "removal"):
        process.start()
        assert ready.wait(60)
        folder.remove()
    assert here.poll(60)
    assert here.recv() is True
    with pytest.raises(Exception, match="another run has been switching"), folder.locked(0):
        pass
    here.send(None)
    process.join(60)


def test_a_removal_that_is_killed_is_found_by_the_next_run(tmp_path: Path) -> None:
    for step in range(1000):
        instance = Folder(str(tmp_path), "main")
        instance.link("verified", instance.write(DECLARED, DECLARED.identity(b"salt"), None))
        instance.note("verified")

        def remove(instance: Folder = instance) -> None:
            with instance.locked(0, "removal"):
                instance.remove()

        was_killed = killed_at(step, remove)
        left = {path.name for path in Path(instance.path).glob("*")}
        assert folders(str(tmp_path)) or left <= {"switch.lock"}
        files.remove_tree(instance.path)
        if not was_killed:
            break
    assert step > 20
