"""Ports that instances would share."""

from __future__ import annotations

from typing import Any

from plugins.plugin_utils.declaration.peers import peer_problems, port_problems


def host(address: str, **variables: Any) -> dict[str, Any]:
    return {"ansible_host": address, "llama_server_instances": {"main": {"port": 8600}}, **variables}


def test_two_instances_of_a_host_need_two_ports() -> None:
    instances = {"a": {"port": 8600}, "b": {"port": "8600"}, "c": {"port": 8601}, "d": {"port": "x"}}
    assert list(port_problems(instances, "rig-1")) == [
        "instances a and b on rig-1 share port 8600: give one of them another"
    ]


def test_two_names_of_one_machine_need_two_ports() -> None:
    peers = {"rig": host("192.0.2.1"), "alias": host("192.0.2.1", ansible_port=22), "other": host("192.0.2.2")}
    (line,) = peer_problems(peers["rig"]["llama_server_instances"], "rig", peers)
    assert line.startswith("instance main on rig and instance main on alias share port 8600 of 192.0.2.1: give")


def test_machines_behind_one_address_share_only_what_listens_beyond_loopback() -> None:
    beyond = {"main": {"port": 8600, "host": "0.0.0.0"}}  # noqa: S104 - not bound
    pods = {f"pod-{port}": host("192.0.2.3", ansible_port=port) for port in (1, 2)}
    assert list(peer_problems(pods["pod-1"]["llama_server_instances"], "pod-1", pods)) == []
    pods = {name: {**pod, "llama_server_instances": beyond} for name, pod in pods.items()}
    assert len(list(peer_problems(beyond, "pod-1", pods))) == 1
