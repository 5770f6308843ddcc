"""Pages of a gateway, by real HAProxy, nginx and llama-server, as a browser shows them."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from plugins.module_utils.gateway.runtime_api import RuntimeApi
from tests import browser
from tests.conftest import changed, free_port
from tests.support.gateway_fleet import ALL, GATEWAY, TINY, GatewayFleet
from tests.support.haproxy import needs_haproxy
from tests.support.nginx import PROGRAM as NGINX

pytestmark = [
    needs_haproxy,
    pytest.mark.skipif(NGINX is None, reason="needs nginx (Debian's package nginx-light)"),
]

BACKEND, SERVER = "model_tiny-babble", "rig-1_main"
PHONE = 390


@pytest.fixture(scope="module")
def fleet(release: Path) -> Iterator[GatewayFleet]:
    folder = Path(tempfile.mkdtemp(prefix="nexus-pages-"))  # pytest's own are closed to nginx and HAProxy of a root's
    folder.chmod(0o755)
    made = GatewayFleet(folder, release)
    made.instances = {
        "rig-1": {
            "main": {**TINY, **ALL, "port": free_port(), "parallel": 2},
            "router": {"port": free_port(), "models": {"org/alpha": {"model": "tiny-babble", "ctx_size": 1024}}},
        }
    }
    made.settings |= {"gateway_reports_folder": str(folder / "reports")}
    made.write()
    try:
        made.play("-l", "rig-1:gateways", playbook="deploy.yml")
        yield made
    finally:
        made.remove()
        shutil.rmtree(folder)


@pytest.fixture
def reports(fleet: GatewayFleet) -> Path:
    folder = fleet.folder / "reports"
    (folder / "benchmark").mkdir(parents=True, exist_ok=True)
    (folder / "index.html").write_text("<!DOCTYPE html><title>R</title><h1>First list</h1>")
    (folder / "benchmark" / "run 1.html").write_text("<h1>A run</h1>")
    return folder


def bring(fleet: GatewayFleet, *arguments: str) -> int:
    """Bring the reports to the gateway; how many changes that was."""
    return changed(fleet.play("-l", GATEWAY, *arguments, playbook="playbooks/reports.yml").stdout)


def front(fleet: GatewayFleet) -> str:
    return httpx.get(f"{fleet.url}/", timeout=60).text


@browser.needed
def test_the_front_page_shows_all_models_on_any_width(fleet: GatewayFleet, tmp_path: Path) -> None:
    shown = browser.visit(f"{fleet.url}/", tmp_path)
    assert "<code>tiny-babble</code>" in shown
    assert "<code>org/alpha</code>" in shown
    assert "0 of 2" in shown
    assert f"http://127.0.0.1:{fleet.port}/v1" in shown
    page = tmp_path / "front.html"
    page.write_text(front(fleet))
    loads = browser.Loads()
    loads.feed(page.read_text())
    assert loads.found == []
    for width in (PHONE, 1100):
        assert browser.too_wide(page, tmp_path, width) == "", width


def test_states_are_those_of_the_moment(fleet: GatewayFleet) -> None:
    api = RuntimeApi(str(fleet.root / "run" / "admin.sock"))
    hold_map = str(fleet.root / "run" / "hold.map")

    def state() -> dict[str, object]:
        models = httpx.get(f"{fleet.url}/status.json", timeout=60).json()["models"]
        (model,) = [one for one in models if one["name"] == "tiny-babble"]
        (server,) = model["servers"]
        return {**model, **server}

    idle = {"up": True, "held": False, "changing": False, "slots": 2, "busy": 0, "waiting": 0}
    assert state().items() >= idle.items()
    assert "requests wait" not in front(fleet)
    api.set_state(BACKEND, SERVER, "maint")
    api.map_set(hold_map, BACKEND, "1.0")
    api.map_set(hold_map, f"{BACKEND}/{SERVER}", "1.0")
    try:
        assert state().items() >= {"up": False, "held": True, "changing": True}.items()
        assert "down: requests wait for a server that changes" in front(fleet)
        assert "down: being changed" in front(fleet)
    finally:
        api.map_delete(hold_map, BACKEND)
        api.map_delete(hold_map, f"{BACKEND}/{SERVER}")
        api.set_state(BACKEND, SERVER, "ready")


def test_a_host_that_is_no_address_is_not_shown(fleet: GatewayFleet) -> None:
    shown = httpx.get(f"{fleet.url}/", headers={"Host": '"><script>x'}, timeout=60).text
    assert "script" not in shown
    assert f"http://127.0.0.1:{fleet.port}/v1" in shown


@browser.needed
def test_a_browser_shows_reports_and_never_old_ones(fleet: GatewayFleet, reports: Path, tmp_path: Path) -> None:
    bring(fleet)
    assert "First list" in browser.visit(f"{fleet.url}/reports/", tmp_path)
    assert "A run" in browser.visit(f"{fleet.url}/reports/benchmark/run%201.html", tmp_path)
    (reports / "index.html").write_text("<!DOCTYPE html><title>R</title><h1>Newer list</h1>")
    (reports / "benchmark" / "run 1.html").unlink()
    assert bring(fleet, "--check") > 0
    assert "First list" in browser.visit(f"{fleet.url}/reports/", tmp_path)
    bring(fleet)
    assert "Newer list" in browser.visit(f"{fleet.url}/reports/", tmp_path)
    assert "nox -s report" in browser.visit(f"{fleet.url}/reports/benchmark/run%201.html", tmp_path)
    assert bring(fleet) == 0


def test_reports_are_only_read_and_nothing_else_is(fleet: GatewayFleet, reports: Path) -> None:
    (reports / ".hidden").write_text("private-word")
    (reports / "linked.html").symlink_to("/etc/hostname")
    bring(fleet)
    url = f"{fleet.url}/reports/"
    first = httpx.get(url, timeout=60)
    assert first.headers["cache-control"] == "no-cache"
    again = httpx.get(url, headers={"If-None-Match": first.headers["etag"]}, timeout=60)
    assert again.status_code == 304
    assert httpx.post(url, json={"model": "tiny-babble"}, timeout=60).status_code == 405
    for path in (".hidden", "linked.html", "%2e%2e/haproxy.cfg", "..%2fhaproxy.cfg", "benchmark/", "%00", "no.html"):
        answer = httpx.get(url + path, timeout=60)
        assert answer.status_code in (400, 404), path
        assert "private-word" not in answer.text


def test_pages_that_were_shown_are_not_in_the_log(fleet: GatewayFleet, reports: Path) -> None:
    bring(fleet)
    for path in ("/", "/status.json", "/reports/"):
        assert httpx.get(f"{fleet.url}{path}", timeout=60).status_code == 200
    fleet.logged(httpx.get(f"{fleet.url}/v1/models", timeout=60))
    shown = [row for row in fleet.log() if row["status"] == 200 and row["path"] != "/v1/models"]
    assert shown == []


def test_nothing_of_the_gateway_is_reached_by_a_path_out_of_reports(fleet: GatewayFleet) -> None:
    with socket.create_connection(("127.0.0.1", fleet.port), timeout=60) as connection:
        connection.sendall(b"GET /reports/../configuration HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert connection.makefile("rb").readline().split()[1] == b"404"


def test_a_second_deployment_changes_nothing(fleet: GatewayFleet) -> None:
    assert changed(fleet.play("-l", GATEWAY).stdout) == 0


def test_users_open_pages_with_their_key_as_the_password(fleet: GatewayFleet, reports: Path) -> None:
    bring(fleet)
    fleet.settings["gateway_users"] = {"ada": {"key": "adas-own-key-7c1f0e52"}}
    fleet.write()
    fleet.play("-l", GATEWAY)
    try:
        for path in ("/", "/status.json", "/reports/", "/reports/benchmark/run%201.html"):
            stranger = httpx.get(f"{fleet.url}{path}", timeout=60)
            assert (stranger.status_code, stranger.headers["www-authenticate"].split()[0]) == (401, "Basic"), path
            assert httpx.get(f"{fleet.url}{path}", auth=("ada", "no-such-key-at-all"), timeout=60).status_code == 401
            assert httpx.get(f"{fleet.url}{path}", auth=("", "adas-own-key-7c1f0e52"), timeout=60).status_code == 200
        api = httpx.get(f"{fleet.url}/v1/models", timeout=60)
        assert (api.status_code, api.headers["www-authenticate"]) == (401, "Bearer")
        assert httpx.get(f"{fleet.url}/health", timeout=60).status_code == 200
    finally:
        fleet.settings["gateway_users"] = {}
        fleet.write()
        fleet.play("-l", GATEWAY)
