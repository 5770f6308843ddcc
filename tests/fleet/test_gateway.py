"""A gateway on real hosts: installed by the role and run by systemd as root, and without root where there is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bed import Bed
from tests.bed import inventory as inventory_of
from tests.conftest import changed, said, wait_for
from tests.fleet.targets import Target, target

PLAY = "playbooks/gateway.yml"
UNIT = "llama-nexus-gateway.service"
MAIN: dict[str, Any] = {"model": "tiny", "port": 8600, "ctx_size": 2048, "parallel": 2}


def gateway_on(host: Target) -> Target:
    """The same host, in group gateways as well."""
    listed = inventory_of(host.host, groups={"gpu-hosts": [host.host], "gateways": [host.host]})
    (host.inventory / "hosts.json").write_text(json.dumps(listed))
    return host


@pytest.fixture(scope="module")
def host(
    bed: Bed, release: Path, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    with target(bed, "systemd", "rig-gate", release, models, tmp_path_factory.mktemp("gate")) as made:
        made.deploy({"main": MAIN})
        gateway_on(made).play(PLAY)
        yield made


def get(host: Target, path: str, *options: str) -> str:
    """What the gateway answers to its own host."""
    url = f"http://127.0.0.1:3000{path}"
    return host.host.exec("curl", "-s", "-m", "60", *options, url, check=False).stdout


def main_pid(host: Target) -> int:
    return int(host.host.exec("systemctl", "show", "--property=MainPID", "--value", UNIT).stdout)


def test_the_role_installs_haproxy_and_systemd_runs_it(host: Target) -> None:
    assert host.host.exec("dpkg-query", "-W", "haproxy").stdout.startswith("haproxy")
    assert host.host.exec("systemctl", "is-enabled", UNIT).stdout.strip() == "enabled"
    assert json.loads(get(host, "/v1/models"))["data"][0]["id"] == "tiny"
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3})
    answer = json.loads(get(host, "/v1/chat/completions", "-d", body))
    assert answer["usage"]["completion_tokens"] == 3
    look = f"cat {host.prefix}/gateway/log/requests.jsonl {host.prefix}/gateway/log/days/*.jsonl"
    # A row is written after the answer, and moved to its day by the follower.
    wait_for(lambda: '"rig-gate_main"' in host.host.exec("sh", "-c", look, check=False).stdout, "the row", 60)
    workers = host.host.exec("ps", "-o", "user=", "--ppid", str(main_pid(host))).stdout.split()
    assert workers == ["haproxy"]


def test_deployed_again_nothing_changes_and_a_change_is_a_reload(host: Target) -> None:
    before = main_pid(host)
    assert changed(host.play(PLAY)) == 0
    assert changed(host.play(PLAY, "-e", "gateway_queue_timeout=60")) == 1
    assert main_pid(host) == before
    assert "timeout queue 60s" in host.read(f"{host.prefix}/gateway/haproxy.cfg")
    assert changed(host.play(PLAY)) == 1


def test_one_that_was_killed_comes_back(host: Target) -> None:
    log, before = f"{host.prefix}/gateway/log/requests.jsonl", main_pid(host)
    logged = host.read(log)
    host.host.exec("kill", "-9", str(before))
    wait_for(lambda: main_pid(host) not in (0, before), "another process", 60)
    wait_for(lambda: '"ok"' in get(host, "/health"), "the gateway", 60)
    wait_for(lambda: len(host.read(log)) > len(logged) + 100, "the row", 60)
    assert host.read(log).startswith(logged)  # it goes on, and is not begun anew


def test_switched_off_nothing_is_left_but_its_log(host: Target) -> None:
    host.play(PLAY, "-e", "gateway_enabled=false")
    assert host.host.exec("ls", f"{host.prefix}/gateway").stdout.split() == ["log"]
    assert host.host.exec("systemctl", "is-active", UNIT, check=False).stdout.strip() == "inactive"
    assert changed(host.play(PLAY, "-e", "gateway_enabled=false")) == 0
    host.play(PLAY)


def test_without_root_the_package_that_is_missing_is_named(
    bed: Bed, release: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    with target(bed, "plain", "rig-plain", release, models, tmp_path, user="ada") as made:
        made.declare({})
        failed = gateway_on(made).play(PLAY, check=False)
        assert "HAProxy is not installed: install the package haproxy, as with apt-get install haproxy" in said(failed)
        assert made.host.exec("ls", "-d", f"{made.prefix}/gateway/haproxy.cfg", check=False).returncode != 0
