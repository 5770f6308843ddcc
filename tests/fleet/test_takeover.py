"""What a former version deployed under systemd, with locks that anybody could hold, in the hands of this one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bed import Bed
from tests.conftest import BIN, ROOT, changed, wait_for
from tests.fleet.targets import Target, target

PORT = 8600
FIRST: dict[str, Any] = {"model": "tiny", "port": PORT, "ctx_size": 1024, "parallel": 1, "threads": 1}
SECOND = {**FIRST, "ctx_size": 2048}
THIRD = {**FIRST, "ctx_size": 4096}
FORMER = ROOT / "tests/roles/former_launch.txt"


@pytest.fixture(scope="module")
def host(
    bed: Bed, release: Path, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    with target(bed, "systemd", "takeover", release, models, tmp_path_factory.mktemp("takeover")) as made:
        yield made


def stranger_holds(host: Target, path: str) -> None:
    """Another user of the host holds the lock of a file that he may open."""
    host.host.exec("systemctl", "stop", "stranger.service", check=False)
    host.host.exec(
        "systemd-run", "--quiet", "--collect", "--unit=stranger", "--uid=nobody", "flock", "--exclusive", "--nonblock",
        path, "sleep", "infinity",
    )  # fmt: skip
    wait_for(lambda: host.host.exec("flock", "--nonblock", path, "true", check=False).returncode != 0, "the stranger")


def serving(host: Target) -> int:
    """The context of what serves on the host."""
    wait_for(lambda: host.get("main", "/health")[0] == 200, "the server")
    return int(host.get("main", "/props")[1]["default_generation_settings"]["n_ctx"])


def test_what_a_former_version_deployed_is_taken_over_whoever_holds_its_lock(host: Target) -> None:
    folder = host.folder("main")
    host.deploy({"main": FIRST})
    host.deploy({"main": SECOND})
    ids = {link: host.instance("main", link)["id"] for link in ("verified", "previous")}
    for name in ids.values():
        host.host.put(FORMER, f"{folder}/generations/{name}/launch.py")
        host.host.exec("chmod", "644", f"{folder}/generations/{name}/launch.py")
    host.host.exec("ln", "-s", f"generations/{ids['previous']}", f"{folder}/pending")  # as a killed switch leaves it
    host.host.exec("install", "-m", "644", "/dev/null", f"{folder}/lock")
    stranger_holds(host, f"{folder}/lock")
    host.host.exec("systemctl", "restart", "llama-server@main")
    assert serving(host) == 1024  # the fault: what nobody wanted to be served any more

    begun = time.monotonic()
    assert "takeover/main: changed and verified" in host.control("restart")
    assert time.monotonic() - begun < 600  # a third of what another run is waited for
    assert serving(host) == 2048
    # From now on he finds nothing to hold, and nothing pending passes for a switch.
    host.host.exec("test", "!", "-e", f"{folder}/lock")
    tried = f"{folder}/generations/{ids['previous']}/tried"
    host.host.exec("ln", "-s", f"generations/{ids['previous']}", f"{folder}/pending")
    host.host.exec("mkfifo", "-m", "622", tried)
    for path in (f"{folder}/switch.lock", tried):
        asked = host.host.exec("runuser", "-u", "nobody", "--", "flock", "--nonblock", path, "true", check=False)
        assert "Permission denied" in asked.stderr
    host.host.exec("systemctl", "restart", "llama-server@main")
    assert serving(host) == 2048
    host.host.reboot(power_loss=True)
    assert serving(host) == 2048

    # Back to what a former version proved, and on to what this one does.
    assert "takeover/main: changed and verified" in host.control("rollback")
    assert serving(host) == 1024
    host.host.reboot()
    assert serving(host) == 1024
    host.deploy({"main": THIRD})
    assert serving(host) == 4096
    assert changed(host.deploy({"main": THIRD})) == 0


def test_who_stops_a_server_sees_for_which_switch_he_waits_and_for_a_killed_one_no_more(host: Target) -> None:
    host.ensure({"main": THIRD})
    release = host.release_that("sleeps", "sleep 600")
    run = host.start(
        {"main": THIRD}, llama_cpp_release=release, llama_server_trial="never", llama_server_start_timeout=600
    )
    try:
        wait_for(lambda: host.state("main")["phase"] == "switching", "the switch to begin")
    finally:
        os.killpg(run.pid, signal.SIGKILL)  # the switch goes on without it
        run.wait()
    with subprocess.Popen(
        [BIN / "ansible-playbook", "-i", host.inventory, "playbooks/stop.yml"], cwd=ROOT,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, bufsize=1,
    ) as stop:  # fmt: skip
        try:
            assert stop.stdout
            told = next(line for line in stop.stdout if "waiting for process" in line)
            found = re.fullmatch(
                r"  takeover +\dm\d\ds  main: waiting for process (\d+) \(deployment of main\) since 20\S+\n", told
            )
            assert found, told
            host.host.exec("kill", "-9", found[1])
            rest = stop.stdout.read()
            assert stop.wait() == 0, rest
        finally:
            stop.kill()
    assert host.pid("main") == 0
    assert "takeover/main: changed and verified" in host.control("start")
    assert serving(host) == 4096
