"""A raw run on a host with systemd, over ssh: the tool is the server's user, and the server comes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.measurement.llama_bench.tool_plan import BATCHED, BENCH
from nexus_tasks.records import store
from tests.bed import Bed
from tests.conftest import ROOT, wait_for
from tests.fleet.targets import Target, target
from tests.support.known import known

BASE: dict[str, Any] = {"model": "tiny", "port": 8600, "ctx_size": 512, "parallel": 1, "threads": 1}
PROGRAM = """\
import json, sys
from pathlib import Path
from rich.console import Console
from nexus_tasks.fleet import inventory
from nexus_tasks.measurement.llama_bench import engine, tool_plan
tool, sizes, root = json.loads(sys.argv[1])
(instance,) = inventory.deployed("rig/main").instances
asked = tool_plan.plan_for(instance, tool, *sizes)
engine.run(instance, asked, root=Path(root), console=Console(), stop_server=True)
"""


@pytest.fixture(scope="module")
def rig(bed: Bed, release: Path, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(bed, "systemd", "rig", release, models, tmp_path_factory.mktemp("rig")) as host:
        host.deploy({"main": BASE})
        yield host


def measure(rig: Target, root: Path, engine: str, *sizes: int | list[int]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps([engine, sizes, str(root)])],
        cwd=ROOT, env={**os.environ, "NEXUS_INVENTORY": str(rig.inventory)},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def tool_user(rig: Target, engine: str) -> str:
    """Who the tool runs as; empty where it does not run."""
    return rig.host.exec("ps", "-C", engine[:15], "-o", "user:20=", check=False).stdout.strip()


def test_a_host_is_measured_over_ssh_and_its_server_comes_back(rig: Target, tmp_path: Path) -> None:
    before = rig.pid("main")
    process = measure(rig, tmp_path, BENCH, 16, 8, 2, [1])
    output, _ = process.communicate()
    assert process.returncode == 0, output
    (path,) = store.paths("benchmark", tmp_path)
    record = store.load(path)
    assert record.summary
    assert record.summary.ok is True
    assert known(record.summary.metrics["decode_tps"]).n == 2
    assert record.header.client.local is False
    assert record.samples == []  # this machine's load says nothing about that one
    assert rig.get("main", "/health")[0] == 200
    assert rig.pid("main") not in (0, before)


def test_a_killed_run_leaves_the_host_as_it_was(rig: Target, tmp_path: Path) -> None:
    process = measure(rig, tmp_path, BATCHED, 16, 200, 5_000, [1])
    assert wait_for(lambda: tool_user(rig, BATCHED), "the tool") == "llama-server"
    assert rig.get("main", "/health")[0] == 0
    process.kill()
    process.communicate()
    wait_for(lambda: rig.get("main", "/health")[0] == 200, "the server", 300)
    assert tool_user(rig, BATCHED) == ""
