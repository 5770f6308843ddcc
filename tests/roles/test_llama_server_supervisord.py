"""One supervisord, and several runs that change its instances at the same time."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable
from typing import Any

import pytest

from plugins.module_utils.hostlib import locks
from plugins.module_utils.llama_server.control import restart
from plugins.module_utils.llama_server.converge import converge, remove
from plugins.module_utils.llama_server.runtimes.supervisor import LOCK, Supervisor
from tests.conftest import free_port
from tests.roles.machine import Machine, deploy, status

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def declared(machine: Machine) -> Callable[[str], Any]:
    """The host that declares an instance of a name, with a port of its own."""
    ports = {"main": free_port(), "other": free_port()}

    def declare(name: str, *arguments: str) -> Any:
        port = ports[name]
        instance = machine.instance(
            name, "--port", str(port), *arguments, port=port, local_url=f"http://127.0.0.1:{port}"
        )
        return machine.declaring(instance)

    return declare


def in_the_middle(monkeypatch: pytest.MonkeyPatch, time: int, between: Any, go_on: Any) -> None:
    """Stop a run when it has computed the configuration so many times, until another is done or waits for it."""
    compute, times = Supervisor._configuration, itertools.count(1)

    def computed(*arguments: Any, **options: Any) -> str:
        text = compute(*arguments, **options)
        if next(times) == time:
            between.set()
            assert go_on.wait(60)
        return text

    monkeypatch.setattr(Supervisor, "_configuration", computed)


def seen_waiting(monkeypatch: pytest.MonkeyPatch, go_on: Any) -> None:
    """Tell when this process has found the lock held."""
    taken = locks._taken

    def found(path: str, formerly: str | None = None) -> Any:
        lock = taken(path, formerly)
        if not isinstance(lock, int) and path.endswith(LOCK):
            go_on.set()
        return lock

    monkeypatch.setattr(locks, "_taken", found)


@pytest.mark.parametrize(
    ("what", "time"), [("restart", 1), ("restart", 2), ("removal", 1)], ids=["prepared", "started", "removed"]
)
def test_a_run_that_has_computed_the_configuration_takes_nothing_from_another(
    declared: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, what: str, time: int
) -> None:
    host = declared("main")
    deploy(host)
    between, go_on = FORK.Event(), FORK.Event()

    def one() -> None:
        in_the_middle(monkeypatch, time, between, go_on)
        if what == "removal":
            remove(host, host.folder("main"))
        else:
            assert restart(host, host.folder("main"), host.declared["main"].proof)["error"] is None

    process = FORK.Process(target=one)
    process.start()
    assert between.wait(60)
    seen_waiting(monkeypatch, go_on)
    [row] = converge(declared("other"), ["other"])
    assert row["error"] is None
    serving = status(declared("other"), "other").pid
    go_on.set()
    process.join(60)
    assert process.exitcode == 0
    assert status(host).state == ("stopped" if what == "removal" else "running")
    deploy(declared("main", "--seed", "7"))
    assert status(declared("other"), "other").pid == serving
