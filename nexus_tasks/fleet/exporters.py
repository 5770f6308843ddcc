"""Exporters of role telemetry that the inventory declares, and the way to them.

    exporter = exporters.declared("gpu-hosts")["rig-1"]
    with exporter.source() as source:                           # opens an ssh tunnel where it listens on loopback there
        source.look().machine

What they tell is in :mod:`nexus_tasks.servers.scrape`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nexus_tasks.fleet import inventory, targets
from nexus_tasks.fleet.targets import Target
from nexus_tasks.servers import route, scrape


@dataclass(frozen=True)
class Exporter:
    """The exporter that is declared for a host. With ``ssh``, the command that gets there, it is on loopback there."""

    host: str
    address: str
    ssh: tuple[str, ...] | None = None

    @contextlib.contextmanager
    def reach(self) -> Iterator[str]:
        """Its base URL as it can be reached from here, for as long as the block lasts.

        Raises:
            EndpointDown: ssh does not get there.
        """
        if self.ssh is None:
            yield f"http://{self.address}"
            return
        with targets.tunnel(self.ssh, self.address, self.host) as port:
            yield f"http://127.0.0.1:{port}"

    @contextlib.contextmanager
    def source(self) -> Iterator[scrape.Source]:
        """A source of samples of its host, for as long as the block lasts.

        Raises:
            EndpointDown: ssh does not get there.
        """
        with self.reach() as base_url, scrape.Source(self.host, base_url, wants=scrape.Machine) as source:
            yield source


def declared(pattern: str) -> dict[str, Exporter]:
    """The exporters that are declared for the hosts of a pattern, by host; without those that can't be asked.

    Raises:
        DeployError: Ansible failed for every host.
        UsageError: the pattern matches no host.
    """
    hosts, _failures = inventory.answer(pattern, "playbooks/exporters.yml", "exporters_file")
    return {host["host"]: _exporter(host) for host in hosts if host["exporter"]}


def beside(measured: Sequence[Target]) -> dict[str, Exporter]:
    """The exporters of the targets' hosts, by host; without this machine, which tells of itself.

    Raises:
        DeployError: Ansible failed for every host.
    """
    hosts = dict.fromkeys(target.instance.host for target in measured if target.instance and not target.instance.here)
    return declared(",".join(hosts)) if hosts else {}


def _exporter(host: Mapping[str, Any]) -> Exporter:
    listens, port = host["exporter"]["host"], host["exporter"]["port"]
    loopback = route.leads_to_loopback(listens)
    name = listens if loopback else "127.0.0.1" if host["local"] else host["address"]
    address = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    return Exporter(host["host"], address, inventory.ssh_to(host) if loopback and not host["local"] else None)
