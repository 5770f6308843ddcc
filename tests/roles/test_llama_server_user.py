"""Servers under supervisor where root deploys: a user of their own, and what that one can read and write."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.hostlib.pids import argv_of
from plugins.module_utils.llama_server.control import restart, rollback
from plugins.module_utils.llama_server.errors import HostError
from plugins.module_utils.llama_server.plan import plan
from tests.conftest import ROOT, wait_for
from tests.roles.machine import Machine, deploy, status
from tests.strangers import NOBODY, needs_root
from tests.support import small_disk

KEYS = {"main": {"ops": "sesame-0b9f2c-4417"}}
pytestmark = needs_root


@pytest.fixture
def open_machine(release: Path, tiny_model: Path) -> Iterator[Machine]:
    """One whose folders another user can enter, on a small disk of its own: what is large lies beside it."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        shutil.copytree(release, folder / release.name, symlinks=True)
        model = Path(shutil.copy(tiny_model, folder))
        disk = folder / "disk"
        disk.mkdir()
        folder.chmod(0o755)
        with small_disk.mounted(disk, "1m", mode="755"):
            here = Machine(disk, folder / release.name, model)
            here.user = "nobody"
            try:
                yield here
            finally:
                here.shut_down()
        wait_for(lambda: small_disk.removed(disk), f"{disk} to be free")


def declared(machine: Machine, *arguments: str) -> Any:
    instance = machine.instance("main", "--api-key-file", "@keys", *arguments, key_names=["ops"])
    return machine.declaring(instance, keys=KEYS)


def user_of(pid: int) -> str:
    return Path(f"/proc/{pid}").owner()


def environment_of(pid: int) -> dict[str, str]:
    words = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(word.partition("=")[::2] for word in words if word)


def test_a_server_of_root_runs_as_a_user_that_can_write_its_cache_and_keys_alone(open_machine: Machine) -> None:
    host = declared(open_machine)
    [row] = deploy(host)
    assert (row["state"], row["error"]) == ("verified", None)
    assert user_of(row["pid"]) == "nobody"
    environment, folder = environment_of(row["pid"]), host.folder("main")
    assert (environment["HOME"], environment["CUDA_CACHE_PATH"]) == ("/nonexistent", folder.file("cache"))
    find = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "find", str(open_machine.folder)]
    found = subprocess.run([*find, "-writable", "!", "-type", "l"], capture_output=True, text=True, check=False).stdout
    # The keys are its own for nobody else's eyes.
    assert sorted(found.split()) == [folder.file("cache"), folder.linked("verified").key_file]
    assert [row["changed"] for row in plan(host)] == [False]


def test_what_root_ran_is_taken_over_and_can_be_gone_back_to(open_machine: Machine) -> None:
    open_machine.user = "root"
    [row] = deploy(declared(open_machine))
    assert user_of(row["pid"]) == "root"
    first = row["generation"]
    former = Path(declared(open_machine).folder("main").file("process"))
    former.write_text(json.dumps({"pid": row["pid"], "argv": argv_of(row["pid"])}))  # of a former version

    open_machine.user = "nobody"
    host = declared(open_machine)
    [row] = deploy(host)
    assert (row["state"], row["error"], user_of(row["pid"])) == ("verified", None, "nobody")
    [row] = deploy(machine_that_fails(open_machine))
    assert (row["state"], user_of(row["restored"]["pid"])) == ("restored", "nobody")
    folder = host.folder("main")
    row = rollback(host, folder, open_machine.instance("main")["proof"])
    assert (row["generation"], row["state"], user_of(row["pid"])) == (first, "verified", "root")


def machine_that_fails(machine: Machine) -> Any:
    instance = machine.instance("main", "--api-key-file", "@keys", key_names=["ops"], parallel=2)
    return machine.declaring(instance, keys=KEYS)


def test_a_file_that_the_servers_user_can_not_read_is_refused_while_the_old_one_serves(open_machine: Machine) -> None:
    host = declared(open_machine)
    deploy(host)
    serving = status(host)
    Path(open_machine.model["path"]).chmod(0o600)
    for do in (lambda: plan(declared(open_machine, "--ctx-size", "512")),
               lambda: restart(host, host.folder("main"), open_machine.instance("main")["proof"])):  # fmt: skip
        with pytest.raises(
            HostError, match=rf"main: {open_machine.model['path']} can't be read by user nobody, as which"
        ):
            do()
    assert status(host) == serving


# A container's root lacks CAP_SYS_PTRACE, and may not look into the processes of others.
WITHOUT_PTRACE = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]


def test_keys_are_proven_where_root_may_not_look_into_processes_of_others(open_machine: Machine) -> None:
    [row] = deploy(declared(open_machine))
    script = (
        "import os, sys\n"
        "from plugins.module_utils.llama_server import processes, sockets\n"
        "pid = int(sys.argv[1])\n"
        "try:\n    os.readlink(f'/proc/{pid}/fd/0')\nexcept PermissionError:\n    print('closed')\n"
        f"print(sockets.holder(sockets.listeners('127.0.0.1', {open_machine.port})) == pid)\n"
        f"folder = {declared(open_machine).folder('main').path!r}\n"
        "print(processes.with_variable('LLAMA_NEXUS_INSTANCE', folder) == [pid])\n"
        "print(os.geteuid(), os.getegid(), os.getgroups() == [int(word) for word in sys.argv[2:]])\n"
    )
    argv = [*WITHOUT_PTRACE, sys.executable, "-c", script, str(row["pid"]), *map(str, os.getgroups())]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split("\n") == ["closed", "True", "True", "0 0 True", ""], done.stderr


def test_a_full_disk_costs_no_server_under_supervisor(open_machine: Machine) -> None:
    host = declared(open_machine)
    [row] = deploy(host)
    filler = open_machine.folder / "filler"

    def fill() -> None:
        with filler.open("wb") as stream:
            subprocess.run(["dd", "if=/dev/zero", "bs=1k"], stdout=stream, stderr=subprocess.DEVNULL, check=False)

    fill()
    os.kill(row["pid"], signal.SIGKILL)
    pid = wait_for(lambda: status(host).pid not in (None, row["pid"]) and status(host).pid, "a new server")
    [row] = plan(host, remember=False)
    assert (row["state"], row["error"], row["pid"]) == ("verified", None, pid)

    changed = declared(open_machine, "--ctx-size", "512")
    [row] = deploy(changed)
    assert "No space left on device" in row["error"]
    assert status(host).pid == pid

    # One that fills in the middle of a switch: the old one is started again.
    filler.unlink()
    changed = machine_that_fails(open_machine)
    changed.progress = lambda line: fill() if line == "main: starting" else None
    [row] = deploy(changed)
    assert (row["state"], row["restored"]["error"]) == ("restored", None)
    assert row["restored"]["pid"] not in (None, pid)
