"""The command `models` with real Ansible: what lies on a host, what is used, and what is removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.support.split_model import split_model


@dataclass(frozen=True)
class Host:
    """A host of an inventory of the test's own, which is this machine, and its models."""

    inventory: Path
    models: Path

    def runs(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command, as its nox session runs it."""
        environment = {**os.environ, "NEXUS_INVENTORY": str(self.inventory), "COLUMNS": "80", "TERM": "dumb"}
        return subprocess.run(
            [sys.executable, "-m", "nexus_tasks.models", *arguments],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def rows(self) -> dict[str, dict[str, Any]]:
        done = self.runs("list", "-l", "rig-1", "--json")
        assert done.returncode == 0, done.stderr
        [host] = json.loads(done.stdout)
        return {row["name"]: row for row in host["models"]}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host with two of a user's models declared, of which one is deployed, and a file that nobody declares."""
    prefix, [content] = tmp_path / "prefix", split_model(1)
    (prefix / "models").mkdir(parents=True)
    generation = prefix / "instances/main/generations/abc"
    generation.mkdir(parents=True)
    served = {"name": "old", "path": str(prefix / "models/old.gguf")}
    (generation / "instance.json").write_text(json.dumps({"name": "main", "runtime": "supervisor", "model": served}))
    (prefix / "instances/main/previous").symlink_to("generations/abc")
    for name in ("old", "stray"):
        (prefix / f"models/{name}.gguf").write_bytes(content)
    (tmp_path / "mine.gguf").write_bytes(content)
    variables = {
        "ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False,
        "llama_nexus_prefix": str(prefix), "llama_nexus_jobs": str(tmp_path / "jobs"),
        "llama_own_models": {"mine": {"path": str(tmp_path / "mine.gguf"), "quantization": "F16", "tool_calls": True}},
        "llama_server_instances": {"main": {"model": "mine", "port": 8600}},
    }  # fmt: skip
    inventory = tmp_path / "inventory"
    inventory.mkdir()
    groups = {"gpu-hosts": {"hosts": {"rig-1": variables}}, "local": {"hosts": {}}}
    (inventory / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))
    (inventory / "group_vars").symlink_to(ROOT / "group_vars")
    return Host(inventory, prefix / "models")


def test_models_are_fetched_and_listed_and_those_removed_that_nothing_uses(host: Host) -> None:
    fetched = host.runs("fetch", "-l", "rig-1")
    assert fetched.returncode == 0, fetched.stderr
    assert "mine   F16" in fetched.stdout
    rows = host.rows()
    assert {name: row["state"] for name, row in rows.items()} == {
        "mine": "verified", "old": "not verified", "stray": "not verified",
    }  # fmt: skip
    assert (rows["mine"]["declared"], rows["mine"]["tool_calls"], rows["old"]["used_by"]) == (True, True, ["main"])
    refused = host.runs("remove", "old", "-l", "rig-1")
    assert refused.returncode == 1
    assert "rig-1: model old is used by main: it is left alone" in refused.stderr
    assert host.runs("remove", "--unused", "-l", "rig-1").returncode == 0
    assert {path.name for path in host.models.glob("*.gguf")} == {"old.gguf"}  # and the one that lies elsewhere


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["remove", "-l", "rig-1"], "remove needs names of models, or --unused"),
        (["remove", "x", "--unused", "-l", "rig-1"], "remove needs names of models, or --unused"),
        (["remove", "x"], "remove needs -l PATTERN: hosts are not chosen for you"),
    ],
    ids=["no-names", "both", "no-hosts"],
)
def test_a_removal_that_is_not_clear_is_refused_before_a_host_is_asked(arguments: list[str], says: str) -> None:
    done = Host(Path("/nowhere"), Path("/nowhere")).runs(*arguments)
    assert done.returncode == 1
    assert says in done.stderr
