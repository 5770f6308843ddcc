"""A server whose slots are taken by users is left alone; one that does nothing any more is told, and started anew."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from plugins.module_utils.hostlib.files import read_json
from plugins.module_utils.hostlib.server_rows import condition, trouble
from plugins.module_utils.llama_server import drain
from plugins.module_utils.llama_server.client import Server
from plugins.module_utils.llama_server.control import start, stop
from plugins.module_utils.llama_server.converge import converge
from plugins.module_utils.llama_server.plan import plan
from plugins.module_utils.llama_server.proof import prove, readiness, slots
from plugins.module_utils.llama_server.status import status as status_of
from tests.conftest import wait_for
from tests.roles.machine import Machine, deploy, status

# With context_shift there is no other end to an answer than its user's.
ENDLESS = ("--ctx-size", "512", "--context-shift", "--threads", "1")


class Users:
    """Clients of a server, each with one request."""

    def __init__(self, port: int, model: str = "") -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.model = model
        self.tokens: list[int] = []
        self.broken: list[str] = []
        self._leave = threading.Event()
        self._threads: list[threading.Thread] = []

    def ask(self, count: int, tokens: int = -1) -> None:
        """Begin so many requests for ``tokens`` tokens; -1: until they leave."""
        for number in range(len(self.tokens), len(self.tokens) + count):
            self.tokens.append(0)
            thread = threading.Thread(target=self._one, args=(number, tokens))
            self._threads.append(thread)
            thread.start()

    def _one(self, number: int, tokens: int) -> None:
        body = {"model": self.model, "prompt": "a", "n_predict": tokens, "ignore_eos": True, "stream": True}
        try:
            with httpx.stream("POST", f"{self.url}/completion", json=body, timeout=300) as answer:
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        self.tokens[number] += 1
                        if json.loads(line[len("data: ") :]).get("stop"):
                            return
                    if tokens < 0 and self._leave.is_set():
                        return
            self.broken.append(f"request {number} ended early")
        except httpx.HTTPError as error:
            self.broken.append(f"request {number}: {error!r}")

    def working(self) -> int:
        """How many slots work for them."""
        rows = httpx.get(f"{self.url}/slots", params={"model": self.model}, timeout=60).json()
        return sum(row["is_processing"] for row in rows)

    def leave(self) -> None:
        """The endless requests end, and the others have their answers."""
        self._leave.set()
        for thread in self._threads:
            thread.join()


@contextlib.contextmanager
def users(port: int, count: int, waiting: int = 0, model: str = "") -> Iterator[Users]:
    """So many slots are at work, and more requests wait for one."""
    them = Users(port, model)
    try:
        them.ask(count)
        wait_for(lambda: them.working() == count, "users in all slots")
        them.ask(waiting, tokens=8)
        yield them
    finally:
        them.leave()


def checks(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {check["check"]: check for check in row["checks"]}


def proven_speed(host: Any) -> Any:
    """The tokens per second that the host remembers."""
    return (read_json(host.folder("main").file("proof.json")) or {})["tokens_per_second"]


def test_a_busy_server_is_proven_and_left_alone(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "SLOT_SECONDS", 2)
    instance = machine.instance("main", *ENDLESS, "--parallel", "4", parallel=4)
    instance["proof"]["min_decode_tps"] = 0.1
    host = machine.declaring(instance)
    [row] = deploy(host)
    assert row["error"] is None
    measured = proven_speed(host)
    assert measured
    serving = status(host).pid
    with users(machine.port, 4, waiting=4) as them:
        [row] = plan(host)
        assert (row["state"], row["changed"], row["error"]) == ("verified", False, None)
        busy = checks(row)["busy"]
        assert (busy["found"], busy["ok"]) == ("4 of 4 slots", True)
        assert row["tokens_per_second"] is None
        assert "completion" not in checks(row)
        # So it is for who runs the switch all the same, and for who starts what runs.
        [row] = converge(host, ["main"])
        assert (row["state"], row["changed"]) == ("verified", False)
        row = start(host, host.folder("main"), instance["proof"])
        assert (row["state"], row["changed"]) == ("verified", False)
        assert status(host).pid == serving
        so_far = list(them.tokens[:4])
        wait_for(lambda: all(now > then for now, then in zip(them.tokens, so_far, strict=False)), "more of each answer")
    assert them.broken == []
    assert status(host).pid == serving
    assert proven_speed(host) == measured


def test_a_new_server_that_users_fill_at_once_is_kept(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "SLOT_SECONDS", 1)
    deploy(machine.declaring(machine.instance("main", *ENDLESS)))
    them = Users(machine.port)
    loaded = readiness.wait_until_loaded

    def with_users(*arguments: Any) -> Any:
        found = loaded(*arguments)
        them.ask(1)
        wait_for(lambda: them.working() == 1, "the user")
        return found

    monkeypatch.setattr(prove, "wait_until_loaded", with_users)
    changed = machine.instance("main", *ENDLESS, "--seed", "7")
    changed["proof"]["min_decode_tps"] = 1e6
    try:
        [row] = deploy(machine.declaring(changed))
        assert (row["state"], row["changed"], row["error"]) == ("verified", True, None)
        assert checks(row)["busy"]["found"] == "1 of 1 slots"
    finally:
        them.leave()
    assert them.broken == []


def test_the_speed_beside_others_is_told_and_not_held_against_a_floor(machine: Machine) -> None:
    instance = machine.instance("main", *ENDLESS, "--parallel", "2", parallel=2)
    host = machine.declaring(instance)
    deploy(host)
    instance["proof"]["min_decode_tps"] = 1e6
    host = machine.declaring(instance)
    with users(machine.port, 1) as them:
        [row] = plan(host)
    assert them.broken == []
    assert (row["state"], row["changed"], row["error"]) == ("verified", False, None)
    assert (checks(row)["busy"]["found"], checks(row)["decode speed"]["ok"]) == ("1 of 2 slots", True)
    assert row["tokens_per_second"] > 0
    [row] = plan(host)  # alone it counts
    assert (row["state"], row["changed"]) == ("failed", False)
    assert "decode speed: expected at least 1000000.0 tokens/s" in row["error"]


def test_embeddings_that_wait_behind_others_break_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "SLOT_SECONDS", 0)
    arguments = (
        "--embeddings",
        "--pooling",
        "mean",
        "--ctx-size",
        "1024",
        "--batch-size",
        "1024",
        "--ubatch-size",
        "1024",
    )
    host = machine.declaring(machine.instance("main", *arguments, "--threads", "1", mode="embedding"))
    deploy(host)
    serving = status(host).pid
    done = threading.Event()
    answers: list[int] = []

    def ask() -> None:
        while not done.is_set():
            answer = httpx.post(
                f"http://127.0.0.1:{machine.port}/v1/embeddings", json={"input": "a" * 900}, timeout=300
            )
            answers.append(answer.status_code)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    try:
        wait_for(lambda: answers, "the first embedding")
        [row] = plan(host)
    finally:
        done.set()
        for asker in askers:
            asker.join()
    assert (row["state"], row["changed"], row["error"]) == ("verified", False, None)
    assert {"busy", "embedding"} & set(checks(row))
    assert set(answers) == {200}
    assert status(host).pid == serving


def router_of(machine: Machine) -> Any:
    """A host with a router of one model, which loads when somebody asks for it."""
    model = {**machine.model, "side_models": [], "n_gpu_layers": None, "uses_gpu": False, "mode": "completion"}
    sections = f"[chat]\nmodel = {machine.model['path']}\nctx-size = 512\ncontext-shift = true\nthreads = 1\n"
    instance = machine.instance(
        "main", "--models-preset", "@models.ini", mode="router", model=None, files={"models.ini": sections},
        models={"chat": {**model, "load_on_startup": False}},
    )  # fmt: skip
    return machine.declaring(instance)


def test_a_model_of_a_router_that_users_fill_is_left_alone(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "SLOT_SECONDS", 1)
    host = router_of(machine)
    [row] = deploy(host)
    assert row["error"] is None
    serving = status(host).pid
    with users(machine.port, 1, model="chat") as them:
        [row] = plan(host)
        assert (row["state"], row["changed"], row["error"]) == ("verified", False, None)
        assert checks(row)["chat busy"]["found"] == "1 of 1 slots"
    assert them.broken == []
    assert status(host).pid == serving


def test_a_drain_waits_for_a_server_that_has_no_time_to_say_what_it_does(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = machine.declaring(machine.instance("main", *ENDLESS))
    deploy(host)
    monkeypatch.setattr(drain, "LOOK_SECONDS", 0.2)
    told: list[str] = []
    host.progress = told.append
    folder = host.folder("main")
    config = folder.linked("verified")
    stopped = status(host).pid
    os.kill(stopped, signal.SIGSTOP)
    try:
        assert drain.drain(host, folder, config, 3).done is False
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert any("waiting for 1 request" in line for line in told)
    assert drain.drain(host, folder, config, 60).done is True


@pytest.mark.parametrize("count", [40, 150], ids=["threads are left", "no thread is left"])
def test_a_server_with_many_waiting_clients_is_busy_and_who_stops_it_learns_what_that_cut(
    machine: Machine, count: int
) -> None:
    host = machine.declaring(machine.instance("main", *ENDLESS))
    deploy(host)
    pid = status(host).pid
    them = Users(machine.port)
    try:
        them.ask(count)
        wait_for(lambda: (Server(host.folder("main").linked("verified"), pid).clients() or 0) >= count, "clients")
        row = status_of(host, host.folder("main"))
        assert condition(row) == ("running" if row["health"] == 200 else "busy")
        assert trouble(row) is None
        if row["health"] is None:
            assert row["clients"] >= count
        row = stop(host, host.folder("main"), {"drain_timeout": 1})
    finally:
        them.leave()
    assert (row["state"], row["drained"], row["cut"]) == ("stopped", False, count)
    assert len(them.broken) == count


def test_a_stop_of_a_router_waits_for_the_answers_of_its_models(machine: Machine) -> None:
    host = router_of(machine)
    deploy(host)
    with users(machine.port, 1, model="chat") as them:
        assert status_of(host, host.folder("main"))["busy"] == 1
        row = stop(host, host.folder("main"), {"drain_timeout": 1})
    assert (row["drained"], row["cut"], len(them.broken)) == (False, 1, 1)


def test_a_server_that_does_nothing_any_more_is_started_anew(machine: Machine) -> None:
    instance = machine.instance("main", *ENDLESS)
    deploy(machine.declaring(instance))
    instance["proof"]["start_timeout"] = 3
    host = machine.declaring(instance)
    stopped = status(host).pid
    os.kill(stopped, signal.SIGSTOP)
    try:
        [row] = plan(host)
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert (row["state"], row["changed"]) == ("planned", True)
    assert "the server is not ready after 3 s (nothing answers)" in row["reason"]
