"""Hardware advice for an inventory, by real Ansible: of hosts that are not there."""

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


def test_hosts_that_are_not_there_yet_are_recommended_the_best_first(tmp_path: Path) -> None:
    model = write(tmp_path / "m-Q4_K_M.gguf", MODELS["qwen3moe"])
    folder = tmp_path / "inventory"
    folder.mkdir()
    (folder / "group_vars").symlink_to(ROOT / "group_vars")
    hosts = {
        name: {"ansible_host": "192.0.2.1", "llama_server_gpu_memory": gpus}
        for name, gpus in {"small": [2048], "large": [24576], "without": []}.items()
    }
    here = {"localhost": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}}
    groups = {"gpu-hosts": {"hosts": hosts}, "local": {"hosts": here}}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))
    environment = {**os.environ, "NEXUS_INVENTORY": str(folder), "XDG_DATA_HOME": str(tmp_path), "COLUMNS": "80"}

    def runs(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "nexus_tasks.registry", *arguments],
            cwd=ROOT, capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done

    runs("add", str(model))
    done = runs("recommend", "m-Q4_K_M", "-l", "gpu-hosts", "-c", "16384", "--json")
    told = json.loads(done.stdout)
    best = told["offers"][0]
    assert (best["host"], best["place"]) == ("large", "all on GPUs")
    assert all(offer["verdict"] in ("fits", "tight") for offer in told["offers"])
    assert list(told["unknown_hosts"]) == ["without"]
    shown = runs("recommend", "m-Q4_K_M", "-l", "gpu-hosts").stdout
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "large" in shown
