"""The gateway as role gateway makes it, before servers that nobody deployed: what it knows of them is written for it.

with gateway_before(folder, ["http://127.0.0.1:8600"], slots=4) as gateway:
    gateway.url, gateway.cpu_s()
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import yaml

from nexus_tasks.core.provenance import ROOT
from plugins.module_utils.gateway.runtime_api import RuntimeApi
from tests.conftest import ansible, free_port
from tests.support.tools import give_tools

MODEL = "gpt-oss-20b-mxfp4"
GATEWAY = "front"


@dataclass(frozen=True)
class MockGateway:
    """One that runs. ``root`` is its folder."""

    url: str
    root: Path
    inventory: Path

    def play(self, **variables: object) -> str:
        """Deploy it again, with variables that go before what is declared; what Ansible said."""
        play = ("playbooks/gateway.yml", "-i", self.inventory, "-l", GATEWAY)
        return ansible(*play, "-e", json.dumps(variables)).stdout

    def cpu_s(self) -> float:
        """Processor seconds of HAProxy so far."""
        said = RuntimeApi(str(self.root / "run" / "admin.sock")).command("show info")
        pid = next(line.split()[1] for line in said.splitlines() if line.startswith("Pid:"))
        return sum(psutil.Process(int(pid)).cpu_times()[:2])


@contextlib.contextmanager
def gateway_before(
    folder: Path, addresses: Sequence[str], slots: int, *, affinity: bool = True
) -> Iterator[MockGateway]:
    """Deploy the gateway with the real playbook; each address is a host's only server, of so many slots."""
    inventory, root, port = folder / "inventory", folder / "prefix" / "gateway", free_port()
    (inventory / "host_vars").mkdir(parents=True)
    (inventory / "group_vars").symlink_to(ROOT / "group_vars")
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
    hosts = {f"mock-{number}": urlsplit(address).port for number, address in enumerate(addresses, 1)}
    groups = {
        "gpu-hosts": {"hosts": dict.fromkeys(hosts, here)},
        "gateways": {"hosts": {GATEWAY: here}},
        "local": {"hosts": {}},
    }
    (inventory / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))
    settings = {
        "llama_nexus_prefix": str(folder / "prefix"), "gateway_port": port, "gateway_runtime": "supervisor",
        "gateway_affinity": affinity, "gateway_reports": False,
    }  # fmt: skip
    (inventory / "host_vars" / f"{GATEWAY}.yml").write_text(yaml.safe_dump(settings))
    give_tools(root)
    (root / "hosts").mkdir()
    for host, server_port in hosts.items():
        (root / "hosts" / f"{host}.json").write_text(json.dumps(_row(host, server_port, slots)))
    gateway = MockGateway(f"http://127.0.0.1:{port}", root, inventory)
    try:
        gateway.play()
        yield gateway
    finally:
        gateway.play(gateway_enabled=False)


def _row(host: str, port: int | None, slots: int) -> dict[str, object]:
    """What a gateway keeps of a host, as plugins/plugin_utils/gateway/found.py makes it."""
    model = {"slots": slots, "mode": "completion", "sha256": "0" * 64}
    instance = {"name": "main", "listens": "127.0.0.1", "port": port, "keys": {}, "models": {MODEL: model}}
    return {"host": host, "address": "127.0.0.1", "is_here": True, "instances": [instance], "unproven": []}
