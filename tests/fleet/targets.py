"""A host of the test bed that instances of llama-server are deployed to, by the role and over ssh.

    with target(bed, "systemd", "rig", release, models, folder) as host:
        host.deploy({"main": {"model": "tiny", "port": 8600}})
        host.state("main")["phase"], host.pid("main"), host.get("main", "/props")

What role llama_cpp and role gguf_model would have found stands in the inventory; the release and the models are
mounted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bed import Bed, Host
from tests.bed import inventory as inventory_of
from tests.conftest import BIN, RESULTS, ROOT, ansible, one_thread, wait_for

Instances = dict[str, dict[str, Any]]

ROLE = "tests/roles/llama_server.yml"
RELEASE = "/opt/release"
MODELS = "/opt/models"
PREFIX = "/opt/llama-nexus"


@dataclass
class Target:
    """A host, its inventory, and what was deployed last."""

    host: Host
    inventory: Path
    variables: dict[str, Any]
    prefix: str = PREFIX
    deployed: Instances = field(default_factory=dict)
    generations: dict[str, str] = field(default_factory=dict)

    def declare(self, instances: Instances, **variables: Any) -> None:
        """Write into the inventory what the host should serve; ``variables`` stand until the next declaration."""
        given = {**self.variables, **variables, "llama_server_instances": one_thread(instances)}
        path = self.inventory / "host_vars" / f"{self.host.name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(given))

    def run(self, instances: Instances, *, check: bool = False, **variables: Any) -> str:
        """Run the role and return what Ansible printed."""
        self.declare(instances, **variables)
        return self.play(ROLE, check=check)

    def start(self, instances: Instances, **variables: Any) -> subprocess.Popen[bytes]:
        """Run the role in a process group of its own, to be killed."""
        self.declare(instances, **variables)
        return subprocess.Popen(
            [BIN / "ansible-playbook", ROLE, "-i", self.inventory],
            cwd=ROOT, env={**os.environ, "NEXUS_RESULTS": RESULTS.name},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def deploy(self, instances: Instances, **variables: Any) -> str:
        """Run the role, which must succeed."""
        output = self.run(instances, check=True, **variables)
        self.deployed = instances
        self.generations = {name: self.instance(name)["id"] for name in instances}
        return output

    def ensure(self, instances: Instances) -> None:
        """Have these instances serving; a play costs seconds, and the test before may have left them so."""
        if self.deployed != instances or not all(map(self._serves, instances)):
            self.deploy(instances)

    def _serves(self, name: str) -> bool:
        return (
            self.host.exec("test", "-e", f"{self.folder(name)}/verified", check=False).returncode == 0
            and self.state(name)["phase"] in ("verified", "restored", "refused")
            and self.instance(name)["id"] == self.generations[name]
            and self.get(name, "/health")[0] == 200
        )

    def play(self, playbook: str, *arguments: str, check: bool = True) -> str:
        """Run a playbook of the repository for this host, and return what Ansible printed."""
        return ansible(playbook, "-i", self.inventory, *arguments, check=check).stdout

    def control(self, verb: str) -> str:
        """Do with all instances what ``nox -s VERB -- HOST`` does, and return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "nexus_tasks.control", verb, self.host.name], cwd=ROOT, check=False,
            env={**os.environ, "NEXUS_INVENTORY": str(self.inventory), "NEXUS_RESULTS": RESULTS.name},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def kill(self, name: str) -> float:
        """Kill an instance's server; how many seconds later another one answers."""
        killed, started = self.pid(name), time.monotonic()
        self.host.exec("kill", "-9", str(killed))
        wait_for(lambda: self.pid(name) not in (0, killed), "another process", 20)
        wait_for(lambda: self.get(name, "/health")[0] == 200, "the server", 20)
        return time.monotonic() - started

    def read(self, path: str) -> str:
        """A file of the host."""
        return self.host.exec("cat", path).stdout

    def folder(self, name: str) -> str:
        return f"{self.prefix}/instances/{name}"

    def instance(self, name: str, link: str = "verified") -> dict[str, Any]:
        """What a link of an instance names."""
        found: dict[str, Any] = json.loads(self.read(f"{self.folder(name)}/{link}/instance.json"))
        return found

    def state(self, name: str) -> dict[str, Any]:
        """What a switch wrote down last."""
        found: dict[str, Any] = json.loads(self.read(f"{self.folder(name)}/state.json"))
        return found

    def pid(self, name: str) -> int:
        """The process that runs with an instance's name in its arguments' key or port; 0 where there is none."""
        port = self.deployed[name]["port"]
        done = self.host.exec("pgrep", "-x", "-f", rf"\S*/llama-server .*--port {port} .*", check=False)
        found = done.stdout.split()
        assert len(found) <= 1, done.stdout
        return int(found[0]) if found else 0

    def get(self, name: str, path: str, key: str | None = None) -> tuple[int, Any]:
        """Ask an instance from its own host: the status, 0 where nothing answers, and the JSON."""
        url = f"http://127.0.0.1:{self.deployed[name]['port']}{path}"
        header = ["-H", f"Authorization: Bearer {key}"] if key else []
        done = self.host.exec("curl", "-s", "-m", "20", "-w", "\n%{http_code}", *header, url, check=False)
        body, _, status = done.stdout.rpartition("\n")
        with contextlib.suppress(ValueError):
            return int(status or 0), json.loads(body)
        return int(status or 0), None

    def script(self, path: str, *lines: str) -> None:
        """Write a program to the host."""
        text = "\n".join(["#!/bin/bash", *lines, ""])
        self.host.exec("sh", "-c", f"mkdir -p {shlex.quote(str(Path(path).parent))} && "
                       f"printf %s {shlex.quote(text)} > {path} && chmod 755 {path}")  # fmt: skip

    def release_that(self, name: str, *lines: str) -> dict[str, Any]:
        """A release whose llama-server is a script: it has the real one's name and passes the check of arguments."""
        path = f"{self.prefix}/releases/{name}"
        check = f'for word in "$@"; do [ "$word" = --version ] && exec {RELEASE}/bin/llama-server "$@"; done'
        self.script(f"{path}/bin/llama-server", check, *lines)
        return {**self.variables["llama_cpp_release"], "name": name, "path": path}


@contextlib.contextmanager
def target(
    bed: Bed, kind: Any, name: str, release: Path, models: Mapping[str, Path], folder: Path, *,
    mounts: Mapping[Path, str] | None = None, tmpfs: Mapping[str, str] | None = None, user: str = "root",
    **variables: Any,
) -> Iterator[Target]:  # fmt: skip
    """A host of the bed with the release and the models on it, all in one folder of this machine."""
    (shelf,) = {path.parent for path in models.values()}
    with bed.host(
        kind, name, mounts={release: RELEASE, shelf: MODELS, **(mounts or {})}, tmpfs=tmpfs or {}, user=user
    ) as host:
        inventory = folder / "inventory"
        inventory.mkdir()
        (inventory / "hosts.json").write_text(json.dumps(inventory_of(host, groups={"gpu-hosts": [host]})))
        (inventory / "group_vars").symlink_to(ROOT / "group_vars")
        files = {
            model: {
                "path": f"{MODELS}/{path.name}",
                "size_bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for model, path in models.items()
        }
        prefix = PREFIX if user == "root" else f"/home/{user}/nexus"
        found = {
            "ansible_become": user == "root",  # as group_vars/gpu-hosts.yml has it, where that may be
            "llama_nexus_prefix": prefix,
            "llama_cpp_release": {
                "name": release.name,
                "path": RELEASE,
                "manifest": json.loads((release / "manifest.json").read_text()),
            },
            "llama_models": {model: {"path": entry["path"]} for model, entry in files.items()},
            "gguf_model_files": files,
            "llama_server_verify_tokens": 8,
            **variables,
        }
        yield Target(host, inventory, found, prefix)


def together(targets: Iterable[Target], *, check: bool = False) -> dict[str, str]:
    """Run the role in one play for what is declared on several hosts; by host its error, or its line of the recap."""
    options: list[str | Path] = []
    for each in targets:
        options += ["-i", each.inventory]
    output = ansible(ROLE, *options, check=check).stdout
    _, _, recap = output.partition("PLAY RECAP")
    found = dict(re.findall(r"^(\S+) +: (.*)$", recap, re.MULTILINE))
    for part in re.split(r"^(?=(?:fatal|ok|changed|skipping): \[|TASK|PLAY)", output, flags=re.MULTILINE):
        if part.startswith("fatal: ["):
            found[part[len("fatal: [") : part.index("]")]] = " ".join(part.split())
    return found
