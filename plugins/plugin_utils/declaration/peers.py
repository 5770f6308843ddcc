"""Ports of instances: two must not listen on one, on a host or on two names of a machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from ...module_utils.hostlib.addresses import is_loopback
from ...module_utils.hostlib.connections import is_local
from .instances import well_formed


def listening(instances: Any) -> list[tuple[str, int | None, bool]]:
    """By instance its name, its port and whether it listens on loopback only."""
    ports = []
    for name, options in well_formed(instances).items():
        try:
            port = int(options.get("port") or 0) or None
        except (TypeError, ValueError, OverflowError):
            port = None
        ports.append((name, port, is_loopback(str(options.get("host") or "127.0.0.1"))))
    return ports


def port_problems(instances: Mapping[str, Any], host: str) -> Iterator[str]:
    """Problems of instances of one host that share a port, one line each."""
    for (one, port, _), (other, same, _) in itertools.combinations(listening(instances), 2):
        if port and port == same:
            yield f"instances {one} and {other} on {host} share port {port}: give one of them another"


def peer_problems(instances: Mapping[str, Any], host: str, peers: Mapping[str, Any]) -> Iterator[str]:
    """Ports that this host would share with another one of the play.

    Two names of the inventory may be one machine: same address, same ssh port. Or two machines behind one address, with
    a forwarded ssh port each: then what listens beyond loopback would be one endpoint for both.
    """
    if host not in peers:
        return
    address, ssh_port = place(host, peers[host])
    for peer in peers:
        its_address, its_ssh_port = place(peer, peers[peer])
        if peer == host or its_address != address:
            continue
        try:
            theirs = listening(peers[peer].get("llama_server_instances"))
        except Exception:  # noqa: S112 - what can't be read there is told by that host's own checks
            continue
        for (one, port, near), (other, its_port, its_near) in itertools.product(listening(instances), theirs):
            if port and port == its_port and (ssh_port == its_ssh_port or not (near or its_near)):
                yield (
                    f"instance {one} on {host} and instance {other} on {peer} share port {port} of {address}: give "
                    "one of them another"
                )


def place(name: str, variables: Mapping[str, Any]) -> tuple[str, str]:
    """The address of a host and the port of ssh that leads to it."""
    if is_local(variables.get("ansible_connection")):
        return "this machine", ""
    return str(variables.get("ansible_host") or name), str(variables.get("ansible_port") or 22)
