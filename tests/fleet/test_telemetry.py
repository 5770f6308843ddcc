"""The exporter on real hosts: under systemd in its sandbox, and under supervisor without root; watched through ssh."""

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

from tests.bed import Bed
from tests.conftest import RESULTS, ROOT, changed, said, wait_for
from tests.fleet.targets import Target, target
from tests.integration.test_telemetry import build_newer_nvml

PLAY = "playbooks/telemetry.yml"
UNIT = "llama-nexus-telemetry.service"
LIBRARY = "/usr/lib/libnvidia-ml.so.1"
ON = {"telemetry_exporter": True}
# What needs no systemd does the same under both.
BY_SYSTEMD = pytest.mark.parametrize(
    "host", ["systemd", pytest.param("supervisor", marks=pytest.mark.soak)], indirect=True
)
BASE: dict[str, Any] = {"model": "tiny", "port": 8600, "ctx_size": 2048, "parallel": 2, "metrics": True,
                        "api_keys": {"ops": "0b9f2c-sesame-opens"}}  # fmt: skip
KEY = BASE["api_keys"]["ops"]


@pytest.fixture(scope="module", params=["systemd", "supervisor"])
def host(
    request: pytest.FixtureRequest, bed: Bed, release: Path, models: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Target]:  # fmt: skip
    folder = tmp_path_factory.mktemp(request.param)
    kind, user = ("systemd", "root") if request.param == "systemd" else ("plain", "ada")
    with target(bed, kind, f"rig-{request.param}", release, models, folder, user=user) as made:
        yield made


@pytest.fixture
def exported(host: Target) -> Target:
    """The host with an exporter at the default port; a play costs seconds, and the test before may have left it so."""
    if not metrics(host):
        export(host, **ON)
    return host


def export(host: Target, *options: str, check: bool = True, **variables: Any) -> str:
    host.declare(host.deployed, **variables)
    return host.play(PLAY, *options, check=check)


def metrics(host: Target, port: int = 8599) -> str:
    """What the exporter tells; empty where none answers."""
    return host.host.exec("curl", "-s", "-m", "10", f"http://127.0.0.1:{port}/metrics", check=False).stdout


def process(host: Target) -> int:
    """The exporter's process; 0 where there is none."""
    found = host.host.exec("pgrep", "-f", r"python (-\S+ )*\S*/exporter.py", check=False).stdout.split()
    assert len(found) <= 1, found
    return int(found[0]) if found else 0


def by_systemd(host: Target) -> bool:
    return host.host.kind == "systemd"


def left_over(host: Target) -> str:
    """Processes, files and units of an exporter."""
    units = f"/etc/systemd/system/{UNIT} /etc/systemd/system/*/{UNIT}"
    look = f"pgrep -f '[e]xporter.py|[s]upervisord'; ls -d {host.prefix}/telemetry {units} 2>/dev/null"
    return host.host.exec("sh", "-c", look, check=False).stdout


def test_a_check_says_what_would_be_done_and_does_nothing(host: Target) -> None:
    output = export(host, "--check", "--diff", **ON)
    assert changed(output) == 2
    assert f"{host.prefix}/telemetry/exporter.py --host 127.0.0.1 --port 8599" in output
    assert left_over(host) == ""


def test_a_second_run_changes_nothing_and_the_exporter_runs_on(exported: Target) -> None:
    before = process(exported)
    assert before
    assert changed(export(exported, **ON)) == 0
    assert changed(export(exported, "--check", **ON)) == 0
    assert process(exported) == before
    assert "llama_nexus_memory_total_bytes" in metrics(exported)


def test_it_listens_on_loopback_only_and_has_few_rights(exported: Target) -> None:
    sockets = exported.host.exec("ss", "-Hltn", "sport = :8599").stdout.split()
    assert sockets[3] == "127.0.0.1:8599"
    owner = exported.host.exec("ps", "-o", "user=", "-p", str(process(exported))).stdout.strip()
    if by_systemd(exported):
        assert owner not in ("root", "")
        score = exported.host.exec("systemd-analyze", "security", "--no-pager", UNIT).stdout.splitlines()[-1]
        assert float(re.findall(r"\d+\.\d+", score)[0]) <= 2.0, score
    else:
        assert owner == "ada"


def test_a_driver_that_comes_later_is_found_without_a_restart(exported: Target, tmp_path: Path) -> None:
    before = process(exported)
    assert "\nllama_nexus_nvml_up 0.0" in metrics(exported)
    exported.host.put(build_newer_nvml(tmp_path), LIBRARY)
    exported.host.exec("ldconfig")
    told = metrics(exported)
    assert "\nllama_nexus_nvml_up 1.0" in told
    assert '\nllama_nexus_gpu_power_watts{gpu="0",uuid="GPU-0"} 311.5' in told
    assert '\nllama_nexus_gpu_throttled{gpu="0",reason="sw_power_cap",uuid="GPU-0"} 1.0' in told
    assert process(exported) == before


def test_a_killed_exporter_is_back(exported: Target) -> None:
    before = process(exported)
    exported.host.exec("kill", "-9", str(before))
    wait_for(lambda: process(exported) not in (0, before) and metrics(exported), "another exporter")
    assert changed(export(exported, **ON)) == 0


@BY_SYSTEMD
def test_another_port_is_moved_to(exported: Target) -> None:
    assert changed(export(exported, **ON, telemetry_exporter_port=8598)) == 1
    assert metrics(exported, 8598)
    assert metrics(exported) == ""


@BY_SYSTEMD
def test_a_port_that_is_taken_is_refused_and_the_old_one_runs_on(exported: Target) -> None:
    before = process(exported)
    exported.host.exec("sh", "-c", "setsid python3 -m http.server 8597 --bind 127.0.0.1 >/dev/null 2>&1 &")
    wait_for(lambda: exported.host.exec("ss", "-Hltn", "sport = :8597").stdout, "the other program")
    message = said(export(exported, check=False, **ON, telemetry_exporter_port=8597))
    exported.host.exec("pkill", "-f", "http.server 8597")
    assert "port 8597 of 127.0.0.1 is taken: set telemetry_exporter_port to another" in message, message
    assert process(exported) == before
    assert metrics(exported)


def test_after_a_reboot_it_is_there_where_systemd_is(exported: Target) -> None:
    exported.host.reboot()
    if not by_systemd(exported):  # nothing starts it with the host: deploy again
        assert process(exported) == 0
        assert changed(export(exported, **ON)) == 1
    wait_for(lambda: metrics(exported), "the exporter")
    assert changed(export(exported, **ON)) == 0


def test_the_monitor_shows_servers_and_gpus_that_are_on_loopback_there(exported: Target) -> None:
    exported.deploy({"main": BASE}, **ON)
    done = subprocess.run(
        [sys.executable, "-m", "nexus_tasks.monitor", exported.host.name, "--once", "--json"],
        cwd=ROOT, env={**os.environ, "NEXUS_INVENTORY": str(exported.inventory), "NEXUS_RESULTS": RESULTS.name},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert KEY not in done.stdout
    shown = json.loads(done.stdout)
    [instance], [machine] = shown["instances"], shown["hosts"]
    assert (instance["instance"], instance["up"]) == (f"{exported.host.name}/main", True)
    assert (instance["slots_busy"], instance["slots"], instance["waiting"]) == (0, 2, 0)
    assert machine["host"] == exported.host.name
    assert [(gpu["name"], gpu["memory_used_mib"], gpu["power_w"]) for gpu in machine["gpus"]] == [
        ("Test GPU 0", 1000, 311.5), ("Test GPU 1", 1001, None)
    ]  # fmt: skip
    exported.play("playbooks/stop.yml")


def test_switched_off_nothing_of_it_is_left(exported: Target) -> None:
    assert changed(export(exported, "--check", telemetry_exporter=False)) == 1
    assert process(exported)
    assert changed(export(exported, telemetry_exporter=False)) == 1
    assert left_over(exported) == ""
    assert metrics(exported) == ""
    assert changed(export(exported, telemetry_exporter=False)) == 0
