"""The contract of the runtimes beside systemd: start, survive a kill, change, go back, stop and start.

Docker with an engine of the host's own, supervisor as an unprivileged user of a host without systemd.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.records import store
from nexus_tasks.records.benchmark_rows import Tunnel
from tests.bed import Bed
from tests.conftest import ROOT, changed, said, wait_for
from tests.fleet.targets import Target, target

BASE: dict[str, Any] = {
    "model": "tiny", "port": 8600, "ctx_size": 2048, "parallel": 1, "api_keys": {"ops": "0b9f2c-sesame-opens"}
}  # fmt: skip
KEY = BASE["api_keys"]["ops"]


@pytest.fixture(scope="module", params=["docker", "supervisor"])
def host(
    request: pytest.FixtureRequest, bed: Bed, release: Path, models: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Target]:  # fmt: skip
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "docker":
        image = bed.image("base")
        choice: dict[str, Any] = {"llama_server_runtime": "docker", "llama_server_docker_image": {"base": image}}
        with target(bed, "engine", "docker", release, models, folder, **choice) as made:
            made.host.load_image(image)
            yield made
    else:
        with target(bed, "plain", "supervisor", release, models, folder, user="ada") as made:
            yield made
            made.play("playbooks/stop.yml")
            assert made.host.exec("pgrep", "-f", "llama-server|supervisord", check=False).stdout == ""


@pytest.fixture
def served(host: Target) -> Target:
    """The host with the instance of BASE serving."""
    host.ensure({"main": BASE})
    return host


def test_a_second_run_changes_nothing(served: Target) -> None:
    before = served.pid("main")
    assert before
    assert served.get("main", "/props")[0] == 401
    assert served.get("main", "/props", KEY)[0] == 200
    assert changed(served.deploy({"main": BASE})) == 0
    assert served.pid("main") == before


def test_a_server_on_loopback_of_its_host_is_measured_through_a_tunnel(served: Target, tmp_path: Path) -> None:
    target = f"{served.host.name}/main"
    sizes = ["--prompt-tokens", "16", "--output-tokens", "8", "--requests", "3", "--results", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "nexus_tasks.benchmark", target, *sizes], cwd=ROOT, check=False, text=True,
        env={**os.environ, "NEXUS_INVENTORY": str(served.inventory)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    [path] = store.paths("benchmark", tmp_path)
    record = store.load(path)
    assert record.summary
    assert record.summary.ok, done.stdout
    assert record.header.endpoint.tunnel == Tunnel(via="ssh", host=served.host.name)
    assert record.header.endpoint.base_url == "http://127.0.0.1:8600"
    assert record.header.client.local is False
    assert [row.ok for row in record.requests] == [True] * 4
    assert KEY not in path.read_text() + done.stdout
    # The tunnel goes with the run.
    tunnels = ["pgrep", "-f", rf"ssh .*-N .*:127\.0\.0\.1:8600 .*{re.escape(served.host.address)}"]
    wait_for(lambda: subprocess.run(tunnels, check=False).returncode == 1, "the end of the tunnel", 20)


# Not alone: it takes two seconds, and not ten with five times as much to do as there are processors.
def test_a_killed_server_is_back_and_proven_within_ten_seconds(served: Target) -> None:
    assert served.kill("main") < 10
    assert changed(served.deploy({"main": BASE})) == 0


# With a trial: in containers below, where GPUs can't be handed out; under supervisor in roles/test_llama_server.py.
@pytest.mark.parametrize("trial", ["never", pytest.param("always", marks=pytest.mark.soak)])
def test_a_change_that_can_not_start_is_rolled_back(served: Target, trial: str) -> None:
    before, verified = served.pid("main"), served.instance("main")
    broken = {**BASE, "extra_args": ["--override-kv", "llama.block_count=int:99"]}
    message = said(served.run({"main": broken}, llama_server_trial=trial))
    assert "the server ends while it starts" in message
    if trial == "always":
        assert "the old one never stopped serving" in message
        assert served.pid("main") == before
    else:
        assert "the old one was restored and proven" in message
    assert served.instance("main") == verified
    assert served.get("main", "/props", KEY)[0] == 200
    assert changed(served.deploy({"main": BASE})) == 0


def test_a_change_is_served_and_can_be_taken_back_by_hand(served: Target) -> None:
    before = served.instance("main")["id"]
    assert changed(served.deploy({"main": {**BASE, "ctx_size": 1024}})) > 0
    assert served.get("main", "/props", KEY)[1]["default_generation_settings"]["n_ctx"] == 1024
    served.play("playbooks/rollback.yml")
    assert served.instance("main")["id"] == before
    assert served.get("main", "/props", KEY)[1]["default_generation_settings"]["n_ctx"] == 2048


def test_a_stopped_server_stays_stopped_until_it_is_started(served: Target) -> None:
    served.play("playbooks/stop.yml")
    assert served.pid("main") == 0
    assert changed(served.play("playbooks/stop.yml")) == 0
    assert changed(served.play("playbooks/start.yml")) > 0
    assert served.get("main", "/props", KEY)[0] == 200
    assert changed(served.play("playbooks/start.yml")) == 0


def test_what_runs_after_a_reboot_is_what_was_verified(served: Target) -> None:
    verified = served.instance("main")
    served.host.reboot()
    if verified["runtime"] == "supervisor":  # nothing starts it with the host: deploy again
        assert served.pid("main") == 0
        assert changed(served.deploy({"main": BASE})) > 0
    wait_for(lambda: served.get("main", "/props", KEY)[0] == 200, "the server")
    assert served.instance("main") == verified


@pytest.mark.parametrize("host", ["supervisor"], indirect=True)
def test_without_root_the_server_is_a_process_of_who_deployed_it(served: Target) -> None:
    assert served.host.exec("ps", "-o", "user=", "-p", str(served.pid("main"))).stdout.strip() == "ada"


@pytest.mark.parametrize("host", ["docker"], indirect=True)
def test_a_container_has_no_more_than_it_needs(served: Target) -> None:
    (name,) = served.host.exec("docker", "ps", "--format", "{{.Names}}").stdout.split()
    (found,) = json.loads(served.host.exec("docker", "inspect", name).stdout)
    config, limits = found["Config"], found["HostConfig"]
    assert [found["Path"], *found["Args"]] == served.instance("main")["argv"]
    assert config["User"] not in ("", "0", "0:0", "root")
    assert (limits["ReadonlyRootfs"], limits["CapDrop"]) == (True, ["ALL"])
    assert limits["SecurityOpt"] == ["no-new-privileges"]
    assert limits["RestartPolicy"]["Name"] == "always"
    assert limits["LogConfig"]["Config"] == {"max-file": "3", "max-size": "50m"}
    assert config["Labels"]["llama-nexus.generation"] == served.instance("main")["id"]
    wait_for(lambda: "(healthy)" in served.host.exec("docker", "ps").stdout, "the health check")


@pytest.mark.parametrize("host", ["docker"], indirect=True)
def test_an_engine_that_can_not_hand_out_gpus_is_told_how_to_and_the_old_server_serves_on(served: Target) -> None:
    before, verified = served.pid("main"), served.instance("main")
    declared = served.variables["llama_cpp_release"]
    inputs = {**declared["manifest"]["inputs"], "backend": "cuda"}
    cuda = {**declared, "name": f"{declared['name']}-cuda", "manifest": {**declared["manifest"], "inputs": inputs}}
    # Where this machine has no nvidia-smi either, nothing is known of its memory: a trial has to be asked for.
    instances = {"main": {**BASE, "n_gpu_layers": 99}}
    message = said(served.run(instances, llama_cpp_release=cuda, llama_server_trial="always"))
    assert "the old one never stopped serving" in message
    assert (
        "the container engine can't hand out GPUs, it knows no runtime nvidia: run playbooks/provision.yml" in message
    )
    assert served.pid("main") == before
    assert served.instance("main") == verified
    assert served.get("main", "/props", KEY)[0] == 200


@pytest.mark.parametrize("host", ["docker"], indirect=True)
def test_an_image_archive_is_loaded_when_its_hash_is_the_declared_one(served: Target) -> None:
    image = served.host.exec("docker", "ps", "--format", "{{.Image}}").stdout.strip()
    served.host.exec("docker", "save", "-o", "/opt/image.tar", image)
    digest = served.host.exec("sha256sum", "/opt/image.tar").stdout.split()[0]
    before = served.pid("main")

    wrong = {"archive": "/opt/image.tar", "sha256": "0" * 64}
    message = said(served.run({"main": BASE}, llama_server_docker_image=wrong))
    assert f"image archive /opt/image.tar has sha256 {digest}, not {'0' * 64}: nothing was loaded" in message
    assert served.pid("main") == before

    served.deploy({"main": BASE}, llama_server_docker_image={"archive": "/opt/image.tar", "sha256": digest})
    assert served.get("main", "/props", KEY)[0] == 200
    assert f"llama-nexus/archive:{digest[:12]}" in served.host.exec("docker", "ps", "--format", "{{.Image}}").stdout


@pytest.mark.parametrize("host", ["docker"], indirect=True)
def test_an_image_is_pulled_from_a_registry_by_its_digest(served: Target) -> None:
    image = served.host.exec("docker", "ps", "--format", "{{.Image}}").stdout.strip()
    name = "127.0.0.1:5000/llama-server"
    served.host.exec("docker", "tag", image, f"{name}:1")
    served.host.exec("docker", "push", "--quiet", f"{name}:1")
    digests = served.host.exec(
        "docker", "image", "inspect", "--format", '{{join .RepoDigests " "}}', f"{name}:1"
    ).stdout
    [ref] = [digest for digest in digests.split() if digest.startswith(name)]
    served.host.exec("docker", "rmi", f"{name}:1")
    before = served.pid("main")

    message = said(served.run({"main": BASE}, llama_server_docker_image={"ref": f"{name}@sha256:{'0' * 64}"}))
    assert "docker pull --quiet failed: " in message
    assert "manifest unknown" in message
    assert served.pid("main") == before

    served.deploy({"main": BASE}, llama_server_docker_image={"ref": ref})
    assert served.get("main", "/props", KEY)[0] == 200
    running = served.host.exec("docker", "ps", "--quiet").stdout.strip()
    assert served.host.exec("docker", "inspect", "--format", "{{.Config.Image}}", running).stdout.strip() == ref
