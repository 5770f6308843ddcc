"""Several hosts in one play: what changes goes from host to host, and stops at the first that fails."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bed import Bed, Host, inventory
from tests.conftest import ROOT, ansible, one_thread
from tests.fleet.targets import MODELS, PREFIX, RELEASE

NAMES = ["alpha", "beta", "gamma"]
BASE: dict[str, Any] = {"main": {"model": "tiny", "port": 8600, "ctx_size": 2048, "parallel": 1}}


class Fleet:
    """Three hosts, and what was printed by the last play."""

    def __init__(self, hosts: list[Host], folder: Path, release: Path, model: Path) -> None:
        self.hosts = hosts
        self.inventory = folder / "inventory"
        self.inventory.mkdir()
        (self.inventory / "group_vars").symlink_to(ROOT / "group_vars")
        (self.inventory / "hosts.json").write_text(json.dumps(inventory(*hosts, groups={"gpu-hosts": hosts})))
        self.found = {
            "llama_nexus_prefix": PREFIX,
            "llama_models": {"tiny": {"path": f"{MODELS}/{model.name}"}},
            "gguf_model_files": {
                "tiny": {
                    "path": f"{MODELS}/{model.name}", "size_bytes": model.stat().st_size,
                    "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
                }
            },
            "llama_cpp_release": {
                "name": release.name, "path": RELEASE, "manifest": json.loads((release / "manifest.json").read_text())
            },
        }  # fmt: skip

    def serve(self, instances: dict[str, Any], *, check: bool = True, **variables: Any) -> dict[str, dict[str, int]]:
        """Run playbooks/serve.yml; the recap's counts by host."""
        given = {**self.found, **variables, "llama_server_instances": one_thread(instances)}
        self.printed = ansible(
            "playbooks/serve.yml", "-i", self.inventory, "-e", json.dumps(given), check=check
        ).stdout  # fmt: skip
        recap = self.printed.rpartition("PLAY RECAP")[2].splitlines()[1:]
        rows = [line.partition(":") for line in recap if ":" in line]
        return {
            name.strip(): {word.partition("=")[0]: int(word.partition("=")[2]) for word in counts.split()}
            for name, _, counts in rows
        }

    def contexts(self) -> list[int]:
        """The context that each host's server has now."""
        return [
            json.loads(host.exec("curl", "-s", "http://127.0.0.1:8600/props").stdout)["default_generation_settings"]["n_ctx"]
            for host in self.hosts
        ]  # fmt: skip


@pytest.fixture(scope="module")
def fleet(
    bed: Bed, release: Path, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    mounts = {release: RELEASE, models["tiny"].parent: MODELS}
    hosts = bed.hosts("systemd", NAMES, mounts=mounts)
    try:
        yield Fleet(hosts, tmp_path_factory.mktemp("fleet"), release, models["tiny"])
    finally:
        for host in hosts:
            host.remove()


def test_a_change_goes_from_host_to_host_with_tasks_before_and_after_each(fleet: Fleet, tmp_path: Path) -> None:
    for moment in ("before", "after"):
        tasks = [{"name": moment, "ansible.builtin.debug": {"msg": f"{moment} {{{{ inventory_hostname }}}}"}}]
        (tmp_path / f"{moment}.yml").write_text(json.dumps(tasks))
    hooks: dict[str, Any] = {
        f"llama_server_{moment}_host": str(tmp_path / f"{moment}.yml") for moment in ("before", "after")
    }
    counts = fleet.serve(BASE, **hooks)
    assert [counts[name]["failed"] for name in NAMES] == [0, 0, 0]
    switches = fleet.printed.split("TASK [llama_server : Start the switch]")[1:]
    assert [[name for name in NAMES if f"ok: [{name}]" in part.split("TASK")[0]] for part in switches] == [
        ["alpha"], ["beta"], ["gamma"],
    ]  # fmt: skip
    lines = [line.strip() for line in fleet.printed.splitlines()]
    order = [line for line in lines if line.startswith(("msg: before", "msg: after"))]
    assert order == [f"msg: {moment} {name}" for name in NAMES for moment in ("before", "after")]
    assert fleet.contexts() == [2048, 2048, 2048]

    counts = fleet.serve(BASE, **hooks)
    assert [counts[name]["changed"] for name in NAMES] == [0, 0, 0]
    assert "Start the switch" not in fleet.printed
    assert "msg: before" not in fleet.printed


def test_the_first_host_that_fails_ends_the_rollout(fleet: Fleet) -> None:
    fleet.serve(BASE)
    # Alpha takes the change; on beta nothing can start on the side port.
    fleet.hosts[1].exec("systemctl", "mask", "--runtime", "llama-server@main.trial.service")
    changed = {"main": {**BASE["main"], "ctx_size": 1024}}
    try:
        counts = fleet.serve(changed, check=False)
    finally:
        fleet.hosts[1].exec("systemctl", "unmask", "--runtime", "llama-server@main.trial.service")
    assert (counts["alpha"]["failed"], counts["beta"]["failed"]) == (0, 1)
    assert fleet.contexts() == [1024, 2048, 2048]
