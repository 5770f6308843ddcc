"""Plans of memory for an inventory, by real Ansible: of hosts that are not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.conftest import ROOT
from tests.memory_model_list import MODELS
from tests.memory_models import write


def test_hosts_that_are_not_there_yet_are_planned_from_what_is_declared(tmp_path: Path) -> None:
    model = write(tmp_path / "m.gguf", MODELS["qwen3moe"])
    folder = tmp_path / "inventory"
    folder.mkdir()
    (folder / "group_vars").symlink_to(ROOT / "group_vars")
    recommended = {"ctx_size": 8192, "parallel": 1}
    declared = {
        "ansible_host": "192.0.2.1",
        "llama_own_models": {"mine": {"path": str(model), "recommended": recommended}},
        "llama_server_instances": {"main": {"model": "mine", "port": 8600}},
    }
    hosts = {
        "large": {**declared, "llama_server_gpu_memory": [24576]},
        "small": {**declared, "llama_server_gpu_memory": [2048]},
    }
    here = {"localhost": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}}
    groups = {"gpu-hosts": {"hosts": hosts}, "local": {"hosts": here}}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))
    done = subprocess.run(
        [sys.executable, "-m", "nexus_tasks.plan", "-l", "gpu-hosts", "--json"],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "NEXUS_INVENTORY": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["host"]: row["verdict"] for row in rows} == {"large": "fits", "small": "does not fit"}
    assert {row["plan"]["context"]["n_ctx"] for row in rows} == {recommended["ctx_size"]}
