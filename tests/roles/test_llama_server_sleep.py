"""A server that sleeps on idle is looked at without being woken, and its memory is counted once."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import httpx
import pytest

from nexus_tasks.servers.scrape import Source
from plugins.module_utils.hostlib.server_rows import condition, trouble
from plugins.module_utils.llama_server import drain
from plugins.module_utils.llama_server.status import status
from tests.conftest import ROOT, wait_for
from tests.roles.machine import Machine, deploy

SLEEPING = ("--ctx-size", "512", "--sleep-idle-seconds", "1")
WOKEN = "server is exiting sleeping state"


def log_of(machine: Machine) -> str:
    return (Path(machine.folder) / "logs/main.log").read_text()


def asleep(machine: Machine, model: str | None = None) -> bool:
    which: dict[str, Any] = {"model": model, "autoload": "false"} if model else {}
    answer = httpx.get(f"http://127.0.0.1:{machine.port}/props", params=which, timeout=60).json()
    return bool(answer.get("is_sleeping"))


def test_a_server_that_sleeps_is_not_woken_by_who_looks_or_drains(machine: Machine) -> None:
    host = machine.declaring(machine.instance("main", *SLEEPING))
    deploy(host)
    wait_for(lambda: asleep(machine), "sleep")
    folder = host.folder("main")
    row = status(host, folder)
    assert (condition(row), trouble(row), row["health"], row["busy"]) == ("sleeping", None, 200, 0)
    assert drain.drain(host, folder, folder.linked("verified"), 60).done is True
    assert WOKEN not in log_of(machine)


@pytest.mark.parametrize(
    ("flags", "may_sleep"), [(("--metrics",), False), ((), True)], ids=["with counters", "without counters"]
)
def test_a_server_falls_asleep_and_stays_so_while_it_is_monitored(
    machine: Machine, flags: tuple[str, ...], may_sleep: bool
) -> None:
    deploy(machine.declaring(machine.instance("main", *SLEEPING, *flags)))
    with Source("main", f"http://127.0.0.1:{machine.port}", may_sleep=may_sleep) as source:

        def asleep_all_the_while() -> bool:
            look = source.look()
            assert look.problem is None
            return asleep(machine)

        wait_for(asleep_all_the_while, "sleep")
        looks = [source.look() for _ in range(5)]
    assert {look.server and look.server.slots_busy for look in looks} == {0}
    assert WOKEN not in log_of(machine)


def test_a_model_of_a_router_that_sleeps_is_not_woken_by_who_looks(machine: Machine) -> None:
    model = {**machine.model, "side_models": [], "n_gpu_layers": None, "uses_gpu": False, "mode": "completion"}
    sections = f"[chat]\nmodel = {machine.model['path']}\nctx-size = 512\nthreads = 1\nsleep-idle-seconds = 1\n"
    host = machine.declaring(
        machine.instance(
            "main", "--models-preset", "@models.ini", mode="router", model=None, files={"models.ini": sections},
            models={"chat": {**model, "load_on_startup": False}},
        )
    )  # fmt: skip
    deploy(host)
    wait_for(lambda: asleep(machine, "chat"), "sleep")
    before = log_of(machine).count(WOKEN)
    row = status(host, host.folder("main"))
    assert (condition(row), row["busy"]) == ("sleeping", 0)
    assert asleep(machine, "chat")
    assert log_of(machine).count(WOKEN) == before


# The proof has the model compute, which wakes it; the last asks gently, as work.py does.
ASKING = {
    "plugins/module_utils/llama_server/work.py",
    "plugins/module_utils/llama_server/proof/identity.py",
    "plugins/module_utils/llama_server/proof/router.py",
    "plugins/module_utils/llama_server/proof/slots.py",
    "nexus_tasks/servers/scrape.py",
}


def asks_for_slots(source: str) -> bool:
    texts = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return any(isinstance(text, str) and text.startswith("/slots") for text in texts)


def test_who_only_looks_asks_for_slots_where_sleepers_are_left_alone() -> None:
    places = ("plugins/**/*.py", "nexus_tasks/**/*.py")
    files = {str(path.relative_to(ROOT)): path for place in places for path in ROOT.glob(place)}
    assert {name for name, path in files.items() if asks_for_slots(path.read_text())} == ASKING
