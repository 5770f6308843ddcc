"""Inventory: what it declares and what runs there. Asks Ansible, never imitates it.

found = inventory.deployed("gpu-hosts")
for instance in found.instances:
    instance.base_url, instance.model["sha256"], instance.argv
for name, why in found.lost.items():  # hosts that can't be asked, and what is declared there and not deployed
    print(name, why)
"""

from __future__ import annotations

import hashlib
import json
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from nexus_tasks.core.errors import DeployError, UsageError
from nexus_tasks.fleet import patterns, playbook
from nexus_tasks.servers import route

FLEET, HERE = "gpu-hosts", "local"


@dataclass(frozen=True)
class Instance:
    """One llama-server as deployed on a host.

    ``model`` has ``name``, ``path``, ``size_bytes`` and ``sha256``, and is None for a router; ``release`` has ``name``,
    ``path``, ``ref`` and ``commit``; ``api_key`` is None where none is set, and is not shown. ``ssh`` is the command
    that reaches the host of a server that listens on loopback there (``base_url`` is good there only), else None.
    ``here`` is whether the host is this machine.
    """

    host: str
    name: str
    base_url: str
    api_key: str | None = field(repr=False)
    model: dict[str, Any] | None
    release: dict[str, Any]
    argv: list[str]
    log: str
    ssh: tuple[str, ...] | None = None
    here: bool = False

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
    listed = playbook.run("playbooks/status.yml", "--limit", FLEET, "--list-hosts", check=False)
    return FLEET if listed.status == 0 else HERE


@dataclass(frozen=True)
class Deployed:
    """Instances that run on the hosts of a pattern.

    ``lost`` says why a host (``HOST``) could not be asked, or that an instance (``HOST/INSTANCE``) is not deployed.
    """

    instances: list[Instance]
    lost: dict[str, str]


def deployed(target: str | None = None) -> Deployed:
    """The instances on the hosts of ``target``; without one, of those that :func:`default_pattern` names.

    Args:
        target: an inventory pattern, or ``HOST/INSTANCE``.

    Raises:
        DeployError: nothing is deployed there, or Ansible failed for every host.
        UsageError: the pattern matches no host, or the host has no such instance.
    """
    pattern, wanted = ("", "") if target is None else patterns.split(target)
    hosts, failures = _ask_ansible(pattern)
    names = [name for host in hosts for name in host["declared"]]
    if wanted and wanted not in names and not failures:
        declared = ", ".join(names) or "none"
        raise UsageError(f"{pattern} has no instance {wanted}", hint=f"those declared are: {declared}")
    instances = [instance for host in hosts for instance in _of_host(host, wanted)]
    if not instances:
        where = ", ".join(host["host"] for host in hosts)
        raise DeployError(
            "\n".join([f"nothing is deployed on {where}", *(f"{host}: {why}" for host, why in failures.items())]),
            hint=f"deploy first: ansible-playbook deploy.yml -l {pattern or where}",
        )
    there = {instance.target for instance in instances}
    missing = [f"{host['host']}/{name}" for host in hosts for name in host["declared"] if wanted in ("", name)]
    return Deployed(instances, failures | {name: "is not deployed" for name in missing if name not in there})


def _ask_ansible(pattern: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    return answer(pattern or default_pattern(), "playbooks/endpoints.yml", "endpoints_file")


def answer(
    pattern: str,
    play: str,
    variable: str,
    variables: Mapping[str, Any] | None = None,
    *,
    console: Console | None = None,
    options: Sequence[str] = (),
    hint: str = "nox -s status shows how its servers are",
) -> tuple[Any, dict[str, str]]:
    """The JSON that a playbook writes to the file that ``variable`` names, and by host why it has no part in it.

    Args:
        variables: what else the playbook gets.
        console: where people see what goes on, while it does.
        options: further ones for ansible-playbook.
        hint: that of the error where no host has a part in it.

    Raises:
        DeployError: there is no host that has.
        UsageError: the pattern matches no host.
    """
    with tempfile.TemporaryDirectory(prefix="llama-nexus-") as folder:
        file = Path(folder) / "answer.json"
        given = json.dumps({**(variables or {}), variable: str(file)})
        outcome = playbook.run_on(pattern, play, "--extra-vars", given, *options, console=console, narrate=False)
        try:
            written = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            problem = outcome.problem() or f"{play} did not write what it found out: {error}"
            raise DeployError(problem, hint=hint) from error
        if outcome.status != 0 and not outcome.failures:
            raise DeployError(outcome.problem(), hint=hint)
        return written, dict(outcome.failures)


def _of_host(host: Mapping[str, Any], wanted: str) -> list[Instance]:
    instances = []
    for deployed in host["deployed"]:
        if (
            deployed["name"] not in host["declared"]
            or "config" not in deployed
            or (wanted and deployed["name"] != wanted)
        ):
            continue
        instances.append(
            Instance(
                host=host["host"],
                name=deployed["name"],
                base_url=_address(host, deployed["name"], deployed["config"]),
                api_key=min(host["api_keys"].get(deployed["name"], {}).items(), default=("", None))[1],
                model=deployed["config"]["model"],
                release=deployed["config"]["release"],
                argv=deployed["config"]["argv"],
                log=deployed["log"],
                here=host["local"],
                ssh=ssh_to(host) if not host["local"] and _on_loopback(deployed["config"]) else None,
            )
        )
    return instances


def _address(host: Mapping[str, Any], name: str, config: Mapping[str, Any]) -> str:
    if host["local"] or _on_loopback(config):
        return str(config["local_url"])
    address = f"[{host['address']}]" if ":" in host["address"] else host["address"]
    return f"http://{address}:{config['port']}"


def _on_loopback(config: Mapping[str, Any]) -> bool:
    return route.leads_to_loopback(config["host"])


def ssh_to(host: Mapping[str, Any]) -> tuple[str, ...]:
    """The command by which Ansible logs in there: the program first, the host last."""
    way = host["ssh"]
    port = ["-p", str(way["port"])] if way["port"] else []
    key = ["-i", way["key"]] if way["key"] else []
    user = ["-l", way["user"]] if way["user"] else []
    return ("ssh", *shlex.split(way["arguments"]), *port, *key, *user, host["address"])


def sampling_presets() -> dict[str, Any]:
    """``llama_sampling_presets`` as the inventory has them for everybody: options of sampling, by the preset's name.

    Raises:
        DeployError: Ansible can't read the inventory.
        UsageError: it is not a dict of dicts.
    """
    presets, _failures = answer("localhost", "playbooks/sampling.yml", "sampling_file")
    return _mapping(presets, "llama_sampling_presets", "presets", "group_vars/all/sampling.yml")


def external_endpoints() -> dict[str, Any]:
    """``llama_endpoints`` of the inventory: servers of others, by name.

    Raises:
        DeployError: Ansible can't read the inventory.
        UsageError: it is not a dict of dicts.
    """
    entries, _failures = answer("localhost", "playbooks/external.yml", "external_file")
    return _mapping(entries, "llama_endpoints", "endpoints", "group_vars/all/endpoints.yml")


def _mapping(entries: Any, variable: str, what: str, model: str) -> dict[str, Any]:
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise UsageError(f"{variable} must be a mapping of names to {what}", hint=f"write it as {model}")
    return entries
