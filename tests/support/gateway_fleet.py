"""A fleet of this machine behind a gateway: two hosts with real llama-servers, deployed by the real playbooks."""

from __future__ import annotations

import getpass
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.conftest import ROOT, ansible, free_port, one_thread, wait_for
from tests.support.tools import give_tools, supervisor_tools

GATEWAY = "front"
FRONT_KEY = "gateways-own-4fd1a7c3"
ALL = {"metrics": True}
TINY = {"model": "tiny-babble", "ctx_size": 4096}


class GatewayFleet:
    """Hosts ``rig-1`` and ``rig-2`` and the gateway ``front``, each with a prefix of its own below ``folder``."""

    def __init__(self, folder: Path, release: Path) -> None:
        self.folder = folder
        self.inventory = folder / "inventory"
        (self.inventory / "host_vars").mkdir(parents=True)
        (self.inventory / "group_vars").symlink_to(ROOT / "group_vars")
        here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        groups = {
            "gpu-hosts": {"hosts": {"rig-1": here, "rig-2": here}},
            "gateways": {"hosts": {GATEWAY: here}},
            "local": {"hosts": {}},
        }
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))
        self.port = free_port()
        self.common = {
            "llama_server_user": getpass.getuser(),  # others can't enter these folders
            "llama_nexus_tools": str(supervisor_tools()),
            "llama_cpp_prefix": str(release.parent.parent),
            "llama_cpp_source": "pypi",
            "llama_cpp_require_gpu": False,
            "llama_server_runtime": "supervisor",
            "llama_own_models": {"tiny-embed": {"description": "for vectors", "generator": "tiny"}},
            "ansible_become": False,
        }
        self.settings: dict[str, Any] = {"gateway_port": self.port, "gateway_runtime": "supervisor"}
        self.instances: dict[str, dict[str, dict[str, Any]]] = {
            "rig-1": {
                "main": {**TINY, **ALL, "port": free_port(), "parallel": 2, "api_keys": {"gateway": FRONT_KEY}},
                "embed": {**ALL, "model": "tiny-embed", "port": free_port(), "embeddings": True, "pooling": "mean",
                          "ctx_size": 1024, "parallel": 1},
            },
            "rig-2": {
                "main": {**TINY, **ALL, "port": free_port(), "parallel": 1, "api_keys": {"gateway": FRONT_KEY}},
                "router": {
                    "port": free_port(), "models_max": 2,
                    "models": {
                        "org/alpha": {"model": "tiny-babble", "ctx_size": 2048, "parallel": 3},
                        "beta": {"model": "tiny-babble", "ctx_size": 2048, "parallel": 1},
                    },
                },
            },
        }  # fmt: skip
        give_tools(self.root)
        self.write()

    def write(self) -> None:
        """Write down what is declared."""
        own = {host: {"llama_server_instances": one_thread(found)} for host, found in self.instances.items()}
        for host, variables in {**own, GATEWAY: self.settings}.items():
            text = yaml.safe_dump({**self.common, "llama_nexus_prefix": str(self.folder / host), **variables})
            (self.inventory / "host_vars" / f"{host}.yml").write_text(text)

    def play(
        self, *arguments: str, playbook: str = "playbooks/gateway.yml", check: bool = True, **variables: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a playbook; ``variables`` go before what is declared."""
        given = ("-e", json.dumps(variables)) if variables else ()
        return ansible(playbook, "-i", str(self.inventory), *arguments, *given, check=check)

    @property
    def root(self) -> Path:
        """The gateway's folder."""
        return self.folder / GATEWAY / "gateway"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, body: object, path: str = "/v1/chat/completions", **options: Any) -> httpx.Response:
        """Ask by POST; a body of bytes goes as it is."""
        given = {"content": body} if isinstance(body, bytes | str) else {"json": body}
        return httpx.post(f"{self.url}{path}", **given, **{"timeout": 300, **options})

    def models(self) -> list[str]:
        listed = httpx.get(f"{self.url}/v1/models", timeout=60).json()
        return sorted(model["id"] for model in listed["data"])

    def log(self) -> list[dict[str, Any]]:
        """The rows of requests that it has logged."""
        return logged_rows(self.root)

    def logged(self, request: str | httpx.Response) -> dict[str, Any]:
        """The row of a request, by its id or its answer; it is written after the answer was."""
        name = request if isinstance(request, str) else request.headers["x-request-id"]

        def found() -> dict[str, Any]:
            return next((row for row in self.log() if row["id"] == name), {})

        return wait_for(found, f"the row of {name}", 30)

    def metric(self, host: str, name: str) -> float:
        """A metric of instance ``main`` of a host, as it tells itself."""
        port = self.instances[host]["main"]["port"]
        key = {"Authorization": f"Bearer {FRONT_KEY}"}
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", headers=key, timeout=60).text
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"llamacpp:{name} "))

    def remove(self) -> None:
        """End all of it."""
        self.play("-l", GATEWAY, gateway_enabled=False)
        ansible("playbooks/stop.yml", "-i", str(self.inventory), "-l", "gpu-hosts")


def logged_rows(root: Path) -> list[dict[str, Any]]:
    """The rows of a gateway's log: those that its follower has moved to their days, and those that it has not yet.

    What is moved becomes a hole. A row that is moved between the two looks is in both.
    """
    waiting = (root / "log" / "requests.jsonl").read_text().replace("\0", "").splitlines(keepends=True)
    days = sorted((root / "log" / "days").glob("*.jsonl"))
    moved = [line for path in days for line in path.read_text().splitlines(keepends=True)]
    whole = [line for line in [*moved, *waiting] if line.startswith("{") and line.endswith("}\n")]
    return [json.loads(line) for line in dict.fromkeys(whole)]
