"""llama.cpp's web page at a gateway: a stand-in that asks as it does, in a browser, by real HAProxy and servers.

The tests' release is built without the page, so its servers are given a folder with another in its place.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import browser
from tests.conftest import changed, free_port
from tests.support.gateway_fleet import ALL, FRONT_KEY, GATEWAY, TINY, GatewayFleet
from tests.support.haproxy import needs_haproxy

pytestmark = [needs_haproxy]

KEY = "adas-own-key-7c1f0e52"
# An address without the key that the browser was started with: fetch takes none that has one.
PAGE = """<!DOCTYPE html><title>stand-in</title><pre id="said"></pre>
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


@pytest.fixture(scope="module")
def fleet(release: Path) -> Iterator[GatewayFleet]:
    folder = Path(tempfile.mkdtemp(prefix="nexus-web-page-"))  # pytest's own are closed to HAProxy of a root's
    folder.chmod(0o755)
    made = GatewayFleet(folder, release)
    page = folder / "page"
    (page / "_app").mkdir(parents=True)
    (page / "index.html").write_text(PAGE)
    (page / "_app" / "page.js").write_text(SCRIPT)
    (page / "slots").write_text("of the server")
    with_page = {**TINY, **ALL, "parallel": 2, "api_keys": {"gateway": FRONT_KEY}, "extra_args": ["--path", str(page)]}
    made.instances = {"rig-1": {"main": {**with_page, "port": free_port()}}}
    made.settings |= {"gateway_reports": False, "gateway_users": {"ada": {"key": KEY}}}
    made.write()
    try:
        made.play("-l", "rig-1:gateways", playbook="deploy.yml")
        yield made
    finally:
        made.remove()
        shutil.rmtree(folder)


@browser.needed
def test_the_page_chats_through_the_gateway_with_a_key(fleet: GatewayFleet, tmp_path: Path) -> None:
    shown = browser.visit(f"{fleet.url.replace('://', f'://ada:{KEY}@')}/ui/", tmp_path)
    assert '"role":"router","models":["tiny-babble loaded"],"slots":404' in shown
    assert '"done":true' in shown
    asked = [row for row in fleet.log() if row["status"] == 200]
    assert [(row["path"], row["user"], row["usage"]) for row in asked] == [("/v1/chat/completions", "ada", "whole")]


def test_only_files_come_from_the_server(fleet: GatewayFleet) -> None:
    own: dict[str, Any] = {"auth": ("x", KEY), "timeout": 60}
    page = httpx.get(f"{fleet.url}/ui/", **own)
    assert (page.status_code, page.headers["cache-control"]) == (200, "no-cache")
    assert "stand-in" in page.text
    assert httpx.get(f"{fleet.url}/ui", **own).headers["location"] == "/ui/"
    for path in ("slots", "metrics", "models/load", "lora-adapters", "v1/stream", "../metrics", "%2e%2e/x.js/../slots"):
        assert httpx.get(f"{fleet.url}/ui/{path}", **own).status_code == 404, path
    for path in ("props", "slots/0?action=erase", "models/load", "v1/chat/completions/control", "tools"):
        assert httpx.post(f"{fleet.url}/ui/{path}", json={}, **own).status_code == 404, path
    assert httpx.post(f"{fleet.url}/ui/", json={}, **own).status_code == 405
    assert httpx.get(f"{fleet.url}/props", **own).status_code == 404


def test_the_page_is_for_users(fleet: GatewayFleet) -> None:
    for path in ("/ui", "/ui/", "/ui/_app/page.js", "/ui/props", "/ui/v1/models"):
        stranger = httpx.get(f"{fleet.url}{path}", timeout=60)
        assert (stranger.status_code, stranger.headers["www-authenticate"].split()[0]) == (401, "Basic"), path
    body = {"model": "tiny-babble", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    assert fleet.ask(body, "/ui/v1/chat/completions").status_code == 401
    assert fleet.ask(body, "/ui/v1/chat/completions", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_a_second_deployment_changes_nothing(fleet: GatewayFleet) -> None:
    assert changed(fleet.play("-l", GATEWAY).stdout) == 0


def test_a_fleet_without_the_page_has_no_link_to_it(fleet: GatewayFleet) -> None:
    own: dict[str, Any] = {"auth": ("x", KEY), "timeout": 60}
    assert 'href="ui/"' in httpx.get(f"{fleet.url}/", **own).text
    fleet.settings["gateway_hosts"] = ["rig-2"]
    fleet.write()
    fleet.play("-l", GATEWAY)
    assert 'href="ui/"' not in httpx.get(f"{fleet.url}/", **own).text
    assert httpx.get(f"{fleet.url}/ui/", **own).json()["error"]["code"] == "no_web_page"
