"""Pages of a gateway, by real HAProxy, nginx and llama-server, as a browser shows them.

llama.cpp's own web page has a stand-in that asks as it does: the tests' release is built without the page, so its
servers are given a folder with another in its place.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from plugins.module_utils.gateway.runtime_api import RuntimeApi
from tests import browser
from tests.conftest import changed, free_port
from tests.support.gateway_fleet import ALL, FRONT_KEY, GATEWAY, TINY, GatewayFleet
from tests.support.haproxy import needs_haproxy
from tests.support.nginx import PROGRAM as NGINX

pytestmark = [
    needs_haproxy,
    pytest.mark.skipif(NGINX is None, reason="needs nginx (Debian's package nginx-light)"),
]

BACKEND, SERVER = "model_tiny-babble", "rig-1_main"
PHONE = 390
ADAS_KEY = "adas-own-key-7c1f0e52"
# An address without the key that the browser was started with: fetch takes none that has one.
WEB_PAGE = """<!DOCTYPE html><title>stand-in</title><pre id="said"></pre>
<script type="module" src="./_app/page.js"></script>"""
SCRIPT = """const at = (path) => new URL(path, location.origin + location.pathname);
const said = {};
const props = await (await fetch(at("./props?autoload=false"))).json();
said.role = props.role;
const models = (await (await fetch(at("./v1/models"))).json()).data;
said.models = models.map((one) => `${one.id} ${one.status.value}`);
said.slots = (await fetch(at("./slots"))).status;
const answer = await fetch(at("./v1/chat/completions"), {
  method: "POST",
  headers: {"Content-Type": "application/json", "X-Conversation-Id": "one"},
  body: JSON.stringify({model: models[0].id, stream: true, max_tokens: 8, return_progress: true,
    reasoning_control: true,
    messages: [{role: "user", content: "Hello"}]}),
});
const text = await answer.text();
said.events = (text.match(/^data: /gm) || []).length;
said.done = text.includes("data: [DONE]");
document.getElementById("said").textContent = JSON.stringify(said);
"""
OF_ADA: dict[str, Any] = {"auth": ("x", ADAS_KEY), "timeout": 60}


@pytest.fixture(scope="module")
def fleet(release: Path) -> Iterator[GatewayFleet]:
    folder = Path(tempfile.mkdtemp(prefix="nexus-pages-"))  # pytest's own are closed to nginx and HAProxy of a root's
    folder.chmod(0o755)
    made = GatewayFleet(folder, release)
    page = folder / "page"
    (page / "_app").mkdir(parents=True)
    (page / "index.html").write_text(WEB_PAGE)
    (page / "_app" / "page.js").write_text(SCRIPT)
    (page / "slots").write_text("of the server")
    with_page = {**TINY, **ALL, "parallel": 2, "api_keys": {"gateway": FRONT_KEY}, "extra_args": ["--path", str(page)]}
    made.instances = {
        "rig-1": {
            "main": {**with_page, "port": free_port()},
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


@pytest.fixture(scope="module")
def reports(fleet: GatewayFleet) -> Path:
    """The controller's reports, which are at the gateway."""
    folder = fleet.folder / "reports"
    (folder / "benchmark").mkdir(parents=True)
    (folder / "index.html").write_text("<!DOCTYPE html><title>R</title><h1>First list</h1>")
    for number in (1, 2):
        (folder / "benchmark" / f"run {number}.html").write_text("<h1>A run</h1>")
    bring(fleet)
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


@browser.needed
def test_a_browser_shows_reports_and_never_old_ones(fleet: GatewayFleet, reports: Path, tmp_path: Path) -> None:
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


@pytest.mark.usefixtures("reports")
def test_pages_that_were_shown_are_not_in_the_log(fleet: GatewayFleet) -> None:
    for path in ("/", "/status.json", "/reports/"):
        assert httpx.get(f"{fleet.url}{path}", timeout=60).status_code == 200
    fleet.logged(httpx.get(f"{fleet.url}/v1/models", timeout=60))
    shown = [row for row in fleet.log() if row["status"] == 200 and row["path"] != "/v1/models"]
    assert shown == []


def test_nothing_of_the_gateway_is_reached_by_a_path_out_of_reports(fleet: GatewayFleet) -> None:
    with socket.create_connection(("127.0.0.1", fleet.port), timeout=60) as connection:
        connection.sendall(b"GET /reports/../configuration HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert connection.makefile("rb").readline().split()[1] == b"404"


@pytest.fixture(scope="module")
def with_users(fleet: GatewayFleet) -> GatewayFleet:
    """The fleet, from here on, with a user."""
    fleet.settings["gateway_users"] = {"ada": {"key": ADAS_KEY}}
    fleet.write()
    fleet.play("-l", GATEWAY)
    return fleet


def test_a_second_deployment_changes_nothing(with_users: GatewayFleet) -> None:
    assert changed(with_users.play("-l", GATEWAY).stdout) == 0


@pytest.mark.usefixtures("reports")
def test_users_open_pages_with_their_key_as_the_password(with_users: GatewayFleet) -> None:
    fleet = with_users
    own = ("/", "/status.json", "/reports/", "/reports/benchmark/run%202.html")
    of_server = ("/ui", "/ui/", "/ui/_app/page.js", "/ui/props", "/ui/v1/models")
    for path in (*own, *of_server):
        stranger = httpx.get(f"{fleet.url}{path}", timeout=60)
        assert (stranger.status_code, stranger.headers["www-authenticate"].split()[0]) == (401, "Basic"), path
    for path in own:
        assert httpx.get(f"{fleet.url}{path}", auth=("ada", "no-such-key-at-all"), timeout=60).status_code == 401
        assert httpx.get(f"{fleet.url}{path}", auth=("", ADAS_KEY), timeout=60).status_code == 200
    api = httpx.get(f"{fleet.url}/v1/models", timeout=60)
    assert (api.status_code, api.headers["www-authenticate"]) == (401, "Bearer")
    assert httpx.get(f"{fleet.url}/health", timeout=60).status_code == 200


def test_a_host_that_is_no_address_is_not_shown(with_users: GatewayFleet) -> None:
    shown = httpx.get(f"{with_users.url}/", headers={"Host": '"><script>x'}, **OF_ADA).text
    assert "script" not in shown
    assert f"http://127.0.0.1:{with_users.port}/v1" in shown


@browser.needed
def test_the_page_chats_through_the_gateway_with_a_key(with_users: GatewayFleet, tmp_path: Path) -> None:
    shown = browser.visit(f"{with_users.url.replace('://', f'://ada:{ADAS_KEY}@')}/ui/", tmp_path)
    assert '"role":"router","models":["org/alpha loaded","tiny-babble loaded"],"slots":404' in shown
    assert '"done":true' in shown
    asked = [row for row in with_users.log() if row["path"] == "/v1/chat/completions"]
    assert [(row["status"], row["user"], row["usage"]) for row in asked] == [(200, "ada", "whole")]


def test_only_files_come_from_the_server(with_users: GatewayFleet) -> None:
    page = httpx.get(f"{with_users.url}/ui/", **OF_ADA)
    assert (page.status_code, page.headers["cache-control"]) == (200, "no-cache")
    assert "stand-in" in page.text
    assert httpx.get(f"{with_users.url}/ui", **OF_ADA).headers["location"] == "/ui/"
    for path in ("slots", "metrics", "models/load", "lora-adapters", "v1/stream", "../metrics", "%2e%2e/x.js/../slots"):
        assert httpx.get(f"{with_users.url}/ui/{path}", **OF_ADA).status_code == 404, path
    for path in ("props", "slots/0?action=erase", "models/load", "v1/chat/completions/control", "tools"):
        assert httpx.post(f"{with_users.url}/ui/{path}", json={}, **OF_ADA).status_code == 404, path
    assert httpx.post(f"{with_users.url}/ui/", json={}, **OF_ADA).status_code == 405
    assert httpx.get(f"{with_users.url}/props", **OF_ADA).status_code == 404


def test_the_page_asks_as_users_do(with_users: GatewayFleet) -> None:
    body = {"model": "tiny-babble", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    key = {"Authorization": f"Bearer {ADAS_KEY}"}
    assert with_users.ask(body, "/ui/v1/chat/completions").status_code == 401
    assert with_users.ask(body, "/ui/v1/chat/completions", headers=key).status_code == 200


def test_a_fleet_without_the_page_has_no_link_to_it(with_users: GatewayFleet) -> None:
    assert 'href="ui/"' in httpx.get(f"{with_users.url}/", **OF_ADA).text
    with_users.settings["gateway_hosts"] = ["rig-2"]
    with_users.write()
    with_users.play("-l", GATEWAY)
    assert 'href="ui/"' not in httpx.get(f"{with_users.url}/", **OF_ADA).text
    assert httpx.get(f"{with_users.url}/ui/", **OF_ADA).json()["error"]["code"] == "no_web_page"
