"""Somebody else answers where a server should: no key gets to him, and the message names him.

Real servers and a real supervisord; the other one is a process of another user where the tests are root.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.hostlib.stored import to_json
from plugins.module_utils.llama_server import sockets, trial
from plugins.module_utils.llama_server.control import restart, start, stop
from plugins.module_utils.llama_server.converge import converge
from plugins.module_utils.llama_server.errors import HostError
from plugins.module_utils.llama_server.plan import plan
from plugins.module_utils.llama_server.status import status as instance_status
from tests import port_takers
from tests.conftest import free_port, wait_for
from tests.roles.machine import Machine, deploy, status

KEYS = {"alice": "the-key-of-alice-0123456789", "ci": "the-key-of-ci-0123456789"}
WITH_KEYS = ("--api-key-file", "@keys", "--threads", "1")


def keyed(machine: Machine, *arguments: str, **settings: Any) -> Any:
    """The host that declares one instance with two keys."""
    instance = machine.instance("main", *WITH_KEYS, *arguments, key_names=sorted(KEYS))
    instance["proof"]["start_timeout"] = 30
    return machine.declaring(instance, keys={"main": KEYS}, **settings)


def assert_no_key_reached(stranger: port_takers.Stranger) -> None:
    heard = stranger.heard().lower()
    assert b"authorization" not in heard
    assert not any(key.encode() in heard for key in KEYS.values())


def assert_named(error: str, stranger: port_takers.Stranger, port: int) -> None:
    assert f"process {stranger.pid} (" in error, error
    assert f"port {port}" in error


def test_who_takes_the_port_during_a_first_deployment_hears_no_key(machine: Machine, tmp_path: Path) -> None:
    host = keyed(machine)
    [planned] = plan(host)
    assert planned["changed"]
    with port_takers.listening(machine.port, tmp_path / "notes") as stranger:
        [row] = converge(host, ["main"])
        assert_no_key_reached(stranger)
        assert_named(row["error"], stranger, machine.port)
        assert row["state"] == "failed"
        # Who deploys again is told the same before anything is touched.
        with pytest.raises(HostError) as refused:
            plan(host)
        assert_named(str(refused.value), stranger, machine.port)
    [row] = deploy(host)
    assert (row["state"], row["error"]) == ("verified", None)


def test_who_takes_the_port_during_a_restart_hears_no_key(machine: Machine, tmp_path: Path) -> None:
    host = keyed(machine)
    deploy(host)
    folder, proof = host.folder("main"), host.declared["main"].proof
    with port_takers.waiting_for(machine.port, tmp_path / "notes") as stranger:
        row = restart(host, folder, proof)
        assert stranger.listens()
        assert_no_key_reached(stranger)
        assert_named(row["error"], stranger, machine.port)

        # Nor does he hear one from who looks, stops or starts it.
        shown = instance_status(host, folder)
        assert (shown["busy"], shown["state"] == "running" and shown["health"] == 200) == (None, False)
        row = start(host, folder, proof)
        assert_named(row["error"], stranger, machine.port)
        stop(host, folder, proof)
        assert_no_key_reached(stranger)
    assert start(host, folder, proof)["error"] is None


def test_who_takes_the_port_of_a_trial_hears_no_key_and_the_server_serves_on(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(keyed(machine))
    serving = status(keyed(machine)).pid
    side = free_port()
    monkeypatch.setattr(trial, "free_port", lambda: side)
    with port_takers.listening(side, tmp_path / "notes") as stranger:
        [row] = deploy(keyed(machine, "--ctx-size", "512", trial="always"))
        assert_no_key_reached(stranger)
        assert_named(row["error"], stranger, side)
    assert (row["state"], row["changed"], row["restored"]["error"]) == ("restored", False, None)
    assert status(keyed(machine)).pid == serving


def test_who_took_the_port_of_a_server_that_died_hears_no_key(machine: Machine, tmp_path: Path) -> None:
    host = keyed(machine)
    deploy(host)
    # Nothing starts it again without its supervisord.
    os.kill(int((machine.folder / "instances/supervisord.pid").read_text()), signal.SIGKILL)
    wait_for(lambda: status(host).state == "unsupervised", "supervisord's end")
    with port_takers.waiting_for(machine.port, tmp_path / "notes") as stranger:
        os.kill(status(host).pid, signal.SIGKILL)
        wait_for(stranger.listens, "the stranger")
        shown = instance_status(host, host.folder("main"))
        assert (shown["state"], shown["busy"]) == ("stopped", None)
        row = restart(host, host.folder("main"), host.declared["main"].proof)  # which drains first
        assert_no_key_reached(stranger)
        assert_named(row["error"], stranger, machine.port)


def test_a_status_says_who_answers_in_place_of_a_server(machine: Machine, tmp_path: Path) -> None:
    """The runtime says that it runs, as it does for a moment before a server finds its port taken."""
    host = keyed(machine)
    deploy(host)
    folder = host.folder("main")
    config = folder.linked("verified")
    elsewhere = free_port()
    generation = Path(config.folder) / "instance.json"
    generation.write_text(to_json({**config.as_json(), "local_url": f"http://127.0.0.1:{elsewhere}"}))
    with port_takers.listening(elsewhere, tmp_path / "notes") as stranger:
        shown = instance_status(host, folder)
        assert (shown["state"], shown["health"], shown["busy"]) == ("running", None, None)
        assert_named(shown["unasked"], stranger, elsewhere)
        row = start(host, folder, {**host.declared["main"].proof, "start_timeout": 5})
        assert_named(row["error"], stranger, elsewhere)
        assert stranger.heard() == b"\n" * stranger.heard().count(b"\n")  # not a byte


def test_where_nobody_can_tell_who_hears_a_key_none_is_sent_and_what_runs_runs_on(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = keyed(machine)
    deploy(host)
    serving = status(host).pid
    monkeypatch.setattr(sockets, "descriptors", lambda pid: None)  # as for who may not read them
    [row] = plan(host)
    assert (row["state"], row["changed"]) == ("failed", False)
    assert "can't be told, since the descriptors of process" in row["error"]
    assert "keys that work" not in {check["check"] for check in row["checks"]}
    shown = instance_status(host, host.folder("main"))
    assert (shown["health"], shown["busy"]) == (200, None)
    assert "deploy as its user, or as root" in shown["unasked"]
    assert status(host).pid == serving


def test_a_process_at_another_address_is_in_the_way_only_of_who_wants_all_of_them(
    machine: Machine, tmp_path: Path
) -> None:
    with port_takers.listening(machine.port, tmp_path / "notes", address="127.0.0.2") as other:
        [row] = deploy(machine.declaring(machine.instance("main")))
        assert (row["state"], row["error"]) == ("verified", None)
        serving = status(machine.declaring()).pid
        # Beside the old server it would be found by the new one, when the old one has been stopped.
        everywhere = machine.instance("main", "--host", "0.0.0.0", host="0.0.0.0")  # noqa: S104 - loopback's port
        with pytest.raises(HostError) as refused:
            deploy(machine.declaring(everywhere))
        assert_named(str(refused.value), other, machine.port)
        assert status(machine.declaring()).pid == serving
    [row] = deploy(machine.declaring(everywhere))
    assert (row["state"], row["error"]) == ("verified", None)
