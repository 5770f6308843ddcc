"""A fleet behind a gateway that changes under load: no request is lost, cut, or answered by what was not proven."""

from __future__ import annotations

import datetime
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.gateway.runtime_api import RuntimeApi
from tests.bed import Bed, Host, inventory
from tests.conftest import ROOT, ansible, free_port, one_thread, wait_for
from tests.fleet.targets import MODELS, PREFIX, RELEASE
from tests.support.counted_load import Load, counted
from tests.support.gateway_fleet import logged_rows
from tests.support.haproxy import needs_haproxy

pytestmark = needs_haproxy

NAMES = ["alpha", "beta"]
# Of model tiny there are three servers, of model twin there is one: its requests have to wait.
MODELS_OF = {"alpha": {"main": "tiny", "side": "tiny"}, "beta": {"main": "tiny", "side": "twin"}}
CLIENTS = {"tiny": 3, "twin": 1}
PAUSE_S = 0.2  # of a client between its requests: what has no processor left to deploy with takes minutes
KEY = "key-of-the-gateway"


class Fleet:
    """Two hosts with two instances each, and this machine as their gateway, which is in no play's limit."""

    def __init__(self, hosts: list[Host], folder: Path, release: Path, models: dict[str, Path]) -> None:
        self.hosts = {host.name: host for host in hosts}
        self.folder, self.port = folder, free_port()
        self.gateway = folder / "gateway"
        self.inventory = folder / "inventory"
        (self.inventory / "host_vars").mkdir(parents=True)
        (self.inventory / "group_vars").symlink_to(ROOT / "group_vars")
        listed = inventory(*hosts, groups={"gpu-hosts": hosts})
        listed["all"].setdefault("children", {})["gateways"] = {"hosts": {"gate": {
            "ansible_connection": "local", "gateway_port": self.port, "llama_nexus_prefix": str(folder),
            "ansible_become": False, "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        }}}  # fmt: skip
        (self.inventory / "hosts.json").write_text(json.dumps(listed))
        self.found = {
            "llama_nexus_prefix": PREFIX,
            "llama_models": {name: {"path": f"{MODELS}/{path.name}"} for name, path in models.items()},
            "gguf_model_files": {
                name: {
                    "path": f"{MODELS}/{path.name}",
                    "size_bytes": path.stat().st_size,
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                }
                for name, path in models.items()
            },
            "llama_cpp_release": {
                "name": release.name,
                "path": RELEASE,
                "manifest": json.loads((release / "manifest.json").read_text()),
            },
            "llama_server_verify_tokens": 8,
        }

    def declare(self, **options: Any) -> None:
        """Write into the inventory what the hosts serve; ``options`` are of all instances."""
        for host, models in MODELS_OF.items():
            instances = {
                name: {"model": model, "port": port, "host": "0.0.0.0", "parallel": 2, "ctx_size": 4096,  # noqa: S104
                       "api_keys": {"gateway": KEY}, **options}
                for port, (name, model) in enumerate(models.items(), 8600)
            }  # fmt: skip
            given = {**self.found, "llama_server_instances": one_thread(instances)}
            (self.inventory / "host_vars" / f"{host}.json").write_text(json.dumps(given))

    def play(self, playbook: str, *arguments: str, check: bool = True) -> str:
        return ansible(f"playbooks/{playbook}.yml", "-i", self.inventory, *arguments, check=check).stdout

    def load(self, model: str) -> AbstractContextManager[Load]:
        return counted(f"http://127.0.0.1:{self.port}", model, clients=CLIENTS[model], pause_s=PAUSE_S)

    def requests(self) -> list[dict[str, Any]]:
        """The gateway's log."""
        return logged_rows(self.gateway)


@pytest.fixture(scope="module")
def fleet(
    bed: Bed, release: Path, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    mounts = {release: RELEASE, models["tiny"].parent: MODELS}
    hosts = bed.hosts("systemd", NAMES, mounts=mounts)
    made = Fleet(hosts, tmp_path_factory.mktemp("lossless"), release, models)
    try:
        made.declare()
        made.play("serve", "-l", "gpu-hosts")
        made.play("gateway")
        yield made
    finally:
        made.play("gateway", "-l", "gate", "-e", "gateway_enabled=false", check=False)
        for host in hosts:
            host.remove()


def under_load(fleet: Fleet, change: Callable[[], object], requests: int = 0) -> dict[str, Load]:
    """Change the fleet while clients of both models ask, and until there were so many whole answers."""
    with fleet.load("tiny") as tiny, fleet.load("twin") as twin:
        tiny.wait_for(10)
        twin.wait_for(3)
        change()
        tiny.wait_for(max(requests - tiny.whole - twin.whole, 10), seconds=1800)
        twin.wait_for(3)
    return {"tiny": tiny, "twin": twin}


def assert_nothing_was_lost(loads: dict[str, Load]) -> None:
    for model, load in loads.items():
        assert not load.failures, f"{model}: {load.summary()}"
        assert load.kinds["stream"] > 0.4 * load.whole


def contexts(fleet: Fleet) -> set[int]:
    """The contexts of all servers, by their generations."""
    found = set()
    for host in fleet.hosts.values():
        for name in ("main", "side"):
            argv = json.loads(host.exec("cat", f"{PREFIX}/instances/{name}/verified/instance.json").stdout)["argv"]
            found.add(int(argv[argv.index("--ctx-size") + 1]))
    return found


def assert_only_proven_ones_answered(fleet: Fleet, *hosts: str) -> None:
    """By the gateway's log: each server got requests after its proof, and none between its start and that."""
    for name in hosts or NAMES:
        host = fleet.hosts[name]
        for instance, port in (("main", 8600), ("side", 8601)):
            state = json.loads(host.exec("cat", f"{PREFIX}/instances/{instance}/state.json").stdout)
            proven = datetime.datetime.fromisoformat(state["at"]).timestamp()
            pid = host.exec("pgrep", "-x", "-f", rf"\S*/llama-server .*--port {port} .*").stdout.strip()
            age_s = int(host.exec("ps", "-o", "etimes=", "-p", pid).stdout)
            began = [
                row["time"] + row["queue_ms"] / 1000
                for row in fleet.requests()
                if row["server"] == f"{name}_{instance}"
            ]
            assert any(moment > proven for moment in began), f"{name}/{instance} was not taken back"
            assert not [moment for moment in began if time.time() - age_s - 1 < moment < proven], f"{name}/{instance}"


@pytest.mark.parametrize(
    "requests", [pytest.param(0, id="few"), pytest.param(5000, id="five thousand", marks=pytest.mark.soak)]
)
def test_a_change_rolls_through_the_fleet_without_a_lost_request(fleet: Fleet, requests: int) -> None:
    changed = {2048: 4096}.get(min(contexts(fleet)), 2048)
    fleet.declare(ctx_size=changed)
    assert_nothing_was_lost(under_load(fleet, lambda: fleet.play("serve", "-l", "gpu-hosts"), requests))
    assert contexts(fleet) == {changed}
    assert_only_proven_ones_answered(fleet)


@pytest.mark.parametrize(
    "verb", [pytest.param("restart", id="restart"), pytest.param("rollback", id="rollback", marks=pytest.mark.soak)]
)
def test_a_verb_goes_through_the_fleet_without_a_lost_request(fleet: Fleet, verb: str) -> None:
    before = contexts(fleet)
    if verb == "rollback":
        fleet.declare(ctx_size=1024)
        fleet.play("serve", "-l", "gpu-hosts")
    assert_nothing_was_lost(under_load(fleet, lambda: fleet.play(verb, "-l", "gpu-hosts")))
    assert contexts(fleet) == before
    assert_only_proven_ones_answered(fleet)


def is_changing(fleet: Fleet, host: str) -> bool:
    """True where the gateway sends nothing to a server of a host, or to another port of it than is declared."""
    servers = RuntimeApi(str(fleet.gateway / "run" / "admin.sock")).servers("model_tiny")
    of_host = [server for server in servers if server.name.startswith(f"{host}_")]
    return any(server.state != "up" or server.port not in (8600, 8601) for server in of_host)


@pytest.mark.parametrize(
    "rolls", [pytest.param(False, id="at rest"), pytest.param(True, id="while another rolls", marks=pytest.mark.soak)]
)
def test_a_host_that_is_killed_costs_its_open_requests_and_no_other(fleet: Fleet, rolls: bool) -> None:
    with fleet.load("tiny") as load, ThreadPoolExecutor(1) as beside:
        load.wait_for(20)
        if rolls:
            fleet.declare(ctx_size=1024)
            rolling = beside.submit(fleet.play, "serve", "-l", "gpu-hosts", check=False)
            wait_for(lambda: is_changing(fleet, "alpha"), "the change of alpha", 600)
        fleet.hosts["beta"].container.kill()
        killed = time.time()  # until then it took requests
        if rolls:
            assert "unreachable=1" in rolling.result()
            assert_only_proven_ones_answered(fleet, "alpha")
        load.wait_for(20)
    fleet.hosts["beta"].container.start()
    fleet.hosts["beta"].wait()
    late = [failure for failure in load.failures if failure.began > killed]
    assert not late, load.summary()
    assert len(load.failures) <= 2  # the slots of beta/main
