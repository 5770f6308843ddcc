"""What the inventory declares and what runs there: asks Ansible, never imitates it.

for instance in inventory.deployed_instances("gpu-hosts"):
    instance.base_url, instance.model["sha256"], instance.argv
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexus_tasks import playbook
from nexus_tasks.errors import DeployError, UsageError

FLEET, HERE = "gpu-hosts", "local"


@dataclass(frozen=True)
class Instance:
    """One llama-server as deployed on a host.

    ``model`` has ``name``, ``path``, ``size_bytes`` and ``sha256``, and is None for a router; ``release`` has ``name``,
    ``path``, ``ref`` and ``commit``; ``api_key`` is None where none is set, and is not shown.
    """

    host: str
    name: str
    base_url: str
    api_key: str | None = field(repr=False)
    model: dict[str, Any] | None
    release: dict[str, Any]
    argv: list[str]
    log: str

    @property
    def target(self) -> str:
        """The name of this instance in records and reports."""
        return f"{self.host}/{self.name}"

    @property
    def argv_sha256(self) -> str:
        """A hash of the command line, equal for equal ones."""
        return hashlib.sha256(json.dumps(self.argv).encode()).hexdigest()


def default_pattern() -> str:
    """The hosts that are meant where none are named: gpu-hosts, or local while that group is empty."""
    found = playbook.run("playbooks/status.yml", "--limit", FLEET, "--list-hosts", check=False)
    return FLEET if found.status == 0 else HERE


def deployed_instances(target: str | None = None) -> list[Instance]:
    """The instances on the hosts of ``target``; without one, of those that :func:`default_pattern` names.

    Args:
        target: an inventory pattern, or ``HOST/INSTANCE``.

    Raises:
        DeployError: nothing is deployed there, a server can't be reached from here, or Ansible failed.
        UsageError: the pattern matches no host, or the host has no such instance.
    """
    pattern, _, wanted = (target or "").partition("/")
    hosts = _ask_ansible(pattern)
    names = [name for host in hosts for name in host["declared"]]
    if wanted and wanted not in names:
        declared = ", ".join(names) or "none"
        raise UsageError(f"{pattern} has no instance {wanted}", hint=f"those declared are: {declared}")
    instances = [instance for host in hosts for instance in _of_host(host, wanted)]
    if not instances:
        where = ", ".join(host["host"] for host in hosts)
        raise DeployError(
            f"nothing is deployed on {where}",
            hint=f"deploy first: ansible-playbook deploy.yml -l {pattern or where}",
        )
    return instances


def _ask_ansible(pattern: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="llama-nexus-") as folder:
        answer = Path(folder) / "endpoints.json"
        variables = json.dumps({"endpoints_file": str(answer)})
        outcome = playbook.run_on(pattern or default_pattern(), "playbooks/endpoints.yml", "--extra-vars", variables)
        if outcome.status != 0:
            raise DeployError(outcome.problem(), hint="nox -s status shows how its servers are")
        hosts: list[dict[str, Any]] = json.loads(answer.read_text(encoding="utf-8"))
    return hosts


def _of_host(host: Mapping[str, Any], wanted: str) -> list[Instance]:
    found = []
    for deployed in host["deployed"]:
        if (
            deployed["name"] not in host["declared"]
            or "config" not in deployed
            or (wanted and deployed["name"] != wanted)
        ):
            continue
        found.append(
            Instance(
                host=host["host"],
                name=deployed["name"],
                base_url=_address(host, deployed["name"], deployed["config"]),
                api_key=min(host["api_keys"].get(deployed["name"], {}).items(), default=("", None))[1],
                model=deployed["config"]["model"],
                release=deployed["config"]["release"],
                argv=deployed["config"]["argv"],
                log=deployed["log"],
            )
        )
    return found


def _address(host: Mapping[str, Any], name: str, config: Mapping[str, Any]) -> str:
    if host["local"]:
        return str(config["local_url"])
    if config["host"] in ("127.0.0.1", "::1", "localhost"):
        raise DeployError(
            f"instance {name} on {host['host']} listens on loopback there, out of reach from here",
            hint="set its host option to an address of the network, and api_keys with it",
        )
    address = f"[{host['address']}]" if ":" in host["address"] else host["address"]
    return f"http://{address}:{config['port']}"
