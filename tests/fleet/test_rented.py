"""A rented machine: root in a container without systemd, whose servers run as a user of their own all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.bed import Bed
from tests.conftest import changed, wait_for
from tests.fleet.targets import target

MAIN: dict[str, Any] = {
    "model": "tiny", "port": 8600, "ctx_size": 2048, "parallel": 1, "api_keys": {"ops": "0b9f2c-sesame-opens"}
}  # fmt: skip


def test_a_server_of_root_without_systemd_has_a_user_of_its_own_and_outlives_what_looks_after_it(
    bed: Bed, release: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    with target(bed, "plain", "rented", release, models, tmp_path) as rented:
        host = rented.host
        rented.deploy({"main": {**MAIN, "ctx_size": 1024}}, llama_server_user="root")  # as former versions did
        rented.deploy({"main": MAIN})
        pid = rented.pid("main")
        assert host.exec("ps", "-o", "user:20=", "-p", str(pid)).stdout.strip() == "llama-server"
        assert rented.get("main", "/props")[0] == 401
        assert changed(rented.deploy({"main": MAIN})) == 0
        host.exec("pkill", "-9", "-f", "supervisor.supervisord")
        assert rented.pid("main") == pid
        assert changed(rented.deploy({"main": MAIN})) > 0
        wait_for(lambda: rented.pid("main") not in (0, pid), "a server that is looked after")
        assert rented.get("main", "/props", MAIN["api_keys"]["ops"])[0] == 200
