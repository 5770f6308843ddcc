"""Reading what Ansible says is deployed."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_tasks.core.errors import DeployError, UsageError
from nexus_tasks.fleet import inventory


def host(name: str, *, local: bool = False, address: str = "192.0.2.7", **listening: str) -> dict[str, Any]:
    """A host as playbooks/endpoints.yml describes it, with instances by name and the address that each listens on."""
    deployed = [
        {
            "name": instance, "log": "/log",
            "config": {
                "host": listens, "port": 8600, "local_url": "http://127.0.0.1:8600", "model": {}, "release": {},
                "argv": ["llama-server", instance],
            },
        }
        for instance, listens in listening.items()
    ]  # fmt: skip
    return {
        "host": name, "address": address, "local": local, "declared": list(listening), "deployed": deployed,
        "api_keys": {}, "ssh": {"user": "ops", "port": "2222", "key": "/my key", "arguments": "-o 'A=b c'"},
    }  # fmt: skip


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(inventory, "_ask_ansible", lambda pattern: (found, {}))
    return found


def test_a_server_of_this_machine_is_asked_on_its_loopback(hosts: list[dict[str, Any]]) -> None:
    hosts.append(host("localhost", local=True, main="127.0.0.1"))
    assert [found.base_url for found in inventory.deployed().instances] == ["http://127.0.0.1:8600"]


@pytest.mark.parametrize(
    ("address", "url"), [("192.0.2.7", "http://192.0.2.7:8600"), ("2001:db8::7", "http://[2001:db8::7]:8600")]
)
def test_a_server_of_another_machine_is_asked_at_the_address_of_its_host(
    hosts: list[dict[str, Any]], address: str, url: str
) -> None:
    hosts.append(host("rig", address=address, main="::"))
    assert [found.base_url for found in inventory.deployed().instances] == [url]


def test_a_server_on_the_loopback_of_another_machine_is_reached_as_ansible_reaches_the_machine(
    hosts: list[dict[str, Any]],
) -> None:
    hosts.append(host("rig", private="127.0.0.1", second="127.0.0.2", public="::"))
    private, second, public = inventory.deployed().instances
    assert second.ssh == private.ssh
    assert private.base_url == "http://127.0.0.1:8600"
    assert private.ssh == ("ssh", "-o", "A=b c", "-p", "2222", "-i", "/my key", "-l", "ops", "192.0.2.7")
    assert public.ssh is None


def test_a_server_on_the_loopback_of_this_machine_needs_no_ssh(hosts: list[dict[str, Any]]) -> None:
    hosts.append(host("localhost", local=True, main="127.0.0.1"))
    assert [found.ssh for found in inventory.deployed().instances] == [None]


def test_an_instance_that_is_not_asked_for_does_no_harm(hosts: list[dict[str, Any]]) -> None:
    hosts.append(host("rig", private="127.0.0.1", public="::"))
    assert [found.target for found in inventory.deployed("rig/public").instances] == ["rig/public"]


def test_an_unknown_instance_is_refused_with_those_that_are_declared(hosts: list[dict[str, Any]]) -> None:
    hosts.append(host("rig", main="::", other="::"))
    with pytest.raises(UsageError, match="rig has no instance third") as refused:
        inventory.deployed("rig/third")
    assert refused.value.hint == "those declared are: main, other"


def test_an_instance_that_is_deployed_but_no_longer_declared_is_left_out(hosts: list[dict[str, Any]]) -> None:
    hosts.append({**host("rig", main="::", gone="::"), "declared": ["main"]})
    assert [found.name for found in inventory.deployed().instances] == ["main"]


def test_an_instance_that_is_declared_and_not_deployed_is_told(hosts: list[dict[str, Any]]) -> None:
    hosts.append({**host("rig", main="::"), "declared": ["main", "second"]})
    hosts.append({**host("bare", main="::"), "deployed": []})
    assert inventory.deployed().lost == {"rig/second": "is not deployed", "bare/main": "is not deployed"}
    assert inventory.deployed("rig/main").lost == {"bare/main": "is not deployed"}


def test_a_host_that_can_not_be_asked_is_told_beside_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "_ask_ansible", lambda pattern: ([host("rig", main="::")], {"gone": "no route"}))
    found = inventory.deployed()
    assert [instance.target for instance in found.instances] == ["rig/main"]
    assert found.lost == {"gone": "no route"}
    with pytest.raises(DeployError, match="nothing is deployed on rig\ngone: no route"):
        inventory.deployed("gpu-hosts/other")


def test_a_host_without_a_deployment_says_how_to_make_one(hosts: list[dict[str, Any]]) -> None:
    hosts.append({**host("rig", main="::"), "deployed": []})
    with pytest.raises(DeployError, match="nothing is deployed on rig") as refused:
        inventory.deployed("rig")
    assert refused.value.hint == "deploy first: ansible-playbook deploy.yml -l rig"


def test_a_key_is_not_shown(hosts: list[dict[str, Any]]) -> None:
    hosts.append({**host("rig", main="::"), "api_keys": {"main": {"ops": "other", "app": "sesame"}}})
    (found,) = inventory.deployed().instances
    assert found.api_key == "sesame"
    assert "sesame" not in repr(found)
