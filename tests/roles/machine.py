"""The modules of role llama_server on this machine, without Ansible: what a play does there can be cut off anywhere.

host = machine.declaring(machine.instance("main", "--ctx-size", "512"))
[row] = deploy(host)
"""

from __future__ import annotations

import getpass
import hashlib
import sys
from pathlib import Path
from typing import Any

import httpx

from plugins.module_utils.llama_server.converge import converge
from plugins.module_utils.llama_server.host import host_of
from plugins.module_utils.llama_server.plan import plan
from plugins.module_utils.llama_server.runtimes.supervisor import Supervisor
from tests.conftest import ROOT, free_port

Row = dict[str, Any]


class Machine:
    """One prefix of this machine, and what is declared for it."""

    def __init__(self, folder: Path, release: Path, model: Path) -> None:
        self.folder = folder
        self.release = release
        self.model: Row = {
            "path": str(model), "size_bytes": model.stat().st_size,
            "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        }  # fmt: skip
        self.port = free_port()
        self.user = getpass.getuser()  # the folders of tests are closed to others

    def instance(self, name: str, *arguments: str, files: dict[str, str] | None = None, **config: Any) -> Row:
        """An instance as role llama_server would render it; ``config`` replaces a part of its configuration."""
        alone = [] if config.get("models") else ["--model", self.model["path"], "--alias", "tiny"]
        return {
            "config": {
                "name": name, "runtime": "supervisor", "environment": {}, "host": "127.0.0.1", "port": self.port,
                "argv": [
                    f"{self.release}/bin/llama-server", *alone, "--host", "127.0.0.1", "--port", str(self.port),
                    "--parallel", "1", "--threads", "1", "--log-verbosity", "4", "--no-ui", *arguments,
                ],
                "local_url": f"http://127.0.0.1:{self.port}", "model": {"name": "tiny", **self.model}, "models": {},
                "side_models": [], "mode": "completion", "has_template": False, "parallel": 1, "ctx_size": None,
                "release": {
                    "name": self.release.name, "path": str(self.release), "ref": "", "commit": "", "backend": "cpu",
                },
                "n_gpu_layers": None, "uses_gpu": False, "key_names": [], "gpus": None, "image": None, **config,
            },
            "files": files or {},
            "proof": {
                "start_timeout": 60, "tokens": 4, "drain_timeout": 5, "min_decode_tps": None, "max_regression": None,
            },
        }  # fmt: skip

    def declaring(self, *instances: Row, keys: dict[str, dict[str, str]] | None = None, **settings: Any) -> Any:
        """The host as the modules see it. ``progress`` is what is told how far they are."""
        progress = settings.pop("progress", lambda line: None)
        host = {
            "root": str(self.folder / "instances"), "logs": str(self.folder / "logs"),
            "user": self.user, "trial": "never",
            "supervisor_python": sys.executable, "keys": keys or {},
            "launcher": (ROOT / "roles/llama_server/files/launch.py").read_text(),
            "instances": {instance["config"]["name"]: instance for instance in instances}, **settings,
        }  # fmt: skip
        Path(host["root"]).mkdir(exist_ok=True)
        return host_of(host, progress)

    def shut_down(self) -> None:
        """End what runs under supervisor."""
        Supervisor(self.declaring().settings).shut_down()

    def loaded(self) -> set[str]:
        """The models that a router has loaded."""
        models = httpx.get(f"http://127.0.0.1:{self.port}/v1/models").json()["data"]
        return {model["id"] for model in models if model["status"]["value"] == "loaded"}


def deploy(host: Any) -> list[Row]:
    """Plan and switch, as the role does."""
    rows = plan(host)
    due = [row["name"] for row in rows if row["changed"] and row["state"] == "planned"]
    return list(converge(host, due))


def status(host: Any, name: str = "main") -> Any:
    return Supervisor(host.settings).status(name)
