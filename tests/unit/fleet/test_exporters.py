"""Where the exporters of a fleet are."""

from __future__ import annotations

import ipaddress

import pytest

from nexus_tasks.fleet import exporters, inventory
from nexus_tasks.fleet.inventory import Instance
from nexus_tasks.fleet.targets import Target

EVERYWHERE = str(ipaddress.ip_address(0))
WAY = {"user": "ops", "port": "2222", "key": "/k", "arguments": "-o A=b"}


@pytest.mark.parametrize(
    ("local", "address", "listens", "base", "through_ssh"),
    [
        (False, "192.0.2.1", "127.0.0.1", "127.0.0.1:8599", True),
        (False, "192.0.2.1", EVERYWHERE, "192.0.2.1:8599", False),
        (False, "2001:db8::1", "::", "[2001:db8::1]:8599", False),
        (False, "2001:db8::1", "::1", "[::1]:8599", True),
        (True, "localhost", EVERYWHERE, "127.0.0.1:8599", False),
        (True, "localhost", "127.0.0.1", "127.0.0.1:8599", False),
    ],
)
def test_exporters_on_loopback_of_another_host_are_reached_through_ssh(
    monkeypatch: pytest.MonkeyPatch, local: bool, address: str, listens: str, base: str, through_ssh: bool
) -> None:
    host = {"host": "rig", "ssh": WAY, "local": local, "address": address}
    without = {**host, "host": "plain", "exporter": None}
    hosts = [{**host, "exporter": {"host": listens, "port": 8599}}, without]
    monkeypatch.setattr(inventory, "answer", lambda *_: (hosts, {"gone": "no route"}))
    found = exporters.declared("gpu-hosts")
    assert list(found) == ["rig"]
    assert found["rig"].address == base
    assert (found["rig"].ssh is not None) is through_ssh
    if found["rig"].ssh:
        assert found["rig"].ssh[0] == "ssh"
        assert found["rig"].ssh[-1] == address


def test_this_machine_tells_of_itself_and_is_asked_for_no_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(pattern: str, *_: str) -> tuple[list[dict[str, object]], dict[str, str]]:
        asked.append(pattern)
        return [], {}

    def target(host: str, *, here: bool) -> Target:
        instance = Instance(host, "main", "http://127.0.0.1:1", None, None, {}, [], "log", here=here)
        return Target(instance.target, instance.base_url, instance=instance)

    monkeypatch.setattr(inventory, "answer", answer)
    assert exporters.beside([target("localhost", here=True), Target("http://a:1", "http://a:1")]) == {}
    assert asked == []
    assert (
        exporters.beside([target("rig-1", here=False), target("rig-1", here=False), target("rig-2", here=False)]) == {}
    )
    assert asked == ["rig-1,rig-2"]
