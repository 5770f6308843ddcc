"""A gateway that is loaded anew, or ends and comes back: its log, and what it knows of conversations and servers."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from nexus_tasks.load.selfcheck.mock_server import mock_server
from plugins.module_utils.gateway.runtime_api import RuntimeApi
from plugins.module_utils.service import pids
from tests.conftest import ROOT, wait_for
from tests.modules import call
from tests.support.gateway_fleet import logged_rows
from tests.support.haproxy import needs_haproxy
from tests.support.mock_gateway import MODEL, MockGateway, gateway_before

pytestmark = needs_haproxy

SERVERS = ("mock-1_main", "mock-2_main")


@pytest.fixture(scope="module")
def gateway() -> Iterator[MockGateway]:
    with (
        tempfile.TemporaryDirectory(prefix="nexus-restart-") as folder,
        mock_server(itl_ms=20, slots=4) as one,
        mock_server(itl_ms=20, slots=4) as other,
    ):
        Path(folder).chmod(0o755)  # pytest's own are closed to HAProxy of a root's
        with gateway_before(Path(folder) / "fleet", [one, other], slots=4) as made:
            yield made


def ask(gateway: MockGateway, *headers: tuple[str, str], **body: Any) -> httpx.Response:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2, **body}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=asked, headers=[*headers], timeout=60)


def logged(gateway: MockGateway, *names: str) -> list[dict[str, Any]]:
    """The rows of requests by their names, once each of them has one."""

    def found() -> list[dict[str, Any]]:
        rows = [row for row in logged_rows(gateway.root) if row["id"] in names]
        return rows if len(rows) >= len(names) else []

    return wait_for(found, f"rows of {', '.join(names)}", 30)


def named(gateway: MockGateway) -> str:
    """Ask under a new name."""
    name = str(uuid.uuid4())
    assert ask(gateway, ("X-Request-Id", name)).status_code == httpx.codes.OK
    return name


def drain(gateway: MockGateway, action: str) -> dict[str, Any]:
    servers: dict[str, Any] = {name: {} for name in SERVERS}
    arguments = {"folder": str(gateway.root), "action": action, "servers": servers, "wait_s": 1}
    return call(ROOT / "plugins/modules/gateway_servers.py", arguments)


def test_the_log_of_one_that_was_killed_goes_on(gateway: MockGateway) -> None:
    before = [named(gateway) for _ in range(3)]
    logged(gateway, *before)
    rows = len(logged_rows(gateway.root))
    for pid in pids.with_argument(str(gateway.root / "haproxy.cfg")):
        os.kill(pid, signal.SIGKILL)

    def is_back() -> bool:
        try:
            return httpx.get(f"{gateway.url}/health", timeout=5).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    wait_for(is_back, "the gateway")
    after = [named(gateway) for _ in range(3)]
    logged(gateway, *before, *after)
    asked = [row for row in logged_rows(gateway.root) if row["path"] != "/health"]
    assert len(asked) == rows + 3


@pytest.mark.parametrize("second", ['a"b', 'x","time":1e300,"y":"', "x, y", "a b", ""])
def test_of_two_names_of_a_request_one_that_is_none_is_not_taken(gateway: MockGateway, second: str) -> None:
    answer = ask(gateway, ("X-Request-Id", "fine"), ("X-Request-Id", second))
    name = answer.headers["x-request-id"]
    assert name not in ("fine", second)
    [row] = logged(gateway, name)
    assert row["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"n": 1, "n_cmpl": 2}, "has both n and n_cmpl"),
        ({"reasoning_budget_end_tag": "x"}, "is for llama-server's own"),
        ({str(number): 0 for number in range(300)}, "more than 256 members"),
    ],
)  # fmt: skip
def test_what_would_be_counted_wrong_or_is_not_for_users_is_refused(
    gateway: MockGateway, body: dict[str, Any], words: str
) -> None:
    answer = ask(gateway, **body)
    assert answer.status_code == httpx.codes.BAD_REQUEST
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("LOCALHOST:3000", 200), ("127.0.0.1:1", 200), ("[::1]:8", 200), ("evil.example", 403)],
)
def test_a_name_of_another_site_is_none_of_this_machine(gateway: MockGateway, host: str, status: int) -> None:
    own = [("Host", host), ("Origin", f"http://{host}")]
    assert ask(gateway, *own).status_code == status
    assert httpx.get(f"{gateway.url}/status.json", headers=own[:1], timeout=60).status_code == status


def test_a_path_that_is_too_long_is_one_whole_row(gateway: MockGateway) -> None:
    answer = httpx.get(f"{gateway.url}/{'x' * 14000}", timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
    [row] = logged(gateway, answer.headers["x-request-id"])
    assert row["path"] == "/..."


def test_what_is_known_of_conversations_outlasts_a_reload(gateway: MockGateway) -> None:
    def known() -> str:
        backend = next(server.backend for server in RuntimeApi(str(gateway.root / "run/admin.sock")).servers())
        return RuntimeApi(str(gateway.root / "run/admin.sock")).command(f"show table {backend}")

    assert ask(gateway).status_code == httpx.codes.OK
    assert "used:1" in known()
    gateway.play(gateway_queue_timeout=61)
    wait_for(lambda: "used:1" in known(), "the table of the old process", 30)


def test_a_drain_waits_for_what_began_before_a_reload(gateway: MockGateway) -> None:
    body = {"model": MODEL, "messages": [], "max_tokens": 2000, "stream": True}
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, timeout=60) as answer:
        parts = answer.iter_bytes()
        next(parts)
        gateway.play(gateway_queue_timeout=62)
        waiting = drain(gateway, "drain")
        assert (waiting["open_requests"], waiting["done"]) == (1, False)
        next(parts)
    wait_for(lambda: drain(gateway, "drain")["done"], "the end of the drain", 60)
    assert drain(gateway, "take_back")["changed"]
    assert ask(gateway).status_code == httpx.codes.OK


def test_a_server_on_another_port_is_found_there_by_one_that_comes_back(gateway: MockGateway) -> None:
    """The configuration has the former port until the next deployment."""
    api = RuntimeApi(str(gateway.root / "run/admin.sock"))
    with mock_server(itl_ms=1, slots=4) as moved:
        port = int(moved.rpartition(":")[2])
        assert drain(gateway, "drain")["done"]
        back = {
            "folder": str(gateway.root), "action": "take_back", "servers": {SERVERS[0]: {"port": port}, SERVERS[1]: {}},
        }  # fmt: skip
        assert call(ROOT / "plugins/modules/gateway_servers.py", back)["changed"]
        subprocess.run(["kill", "-9", *map(str, pids.with_argument(str(gateway.root / "haproxy.cfg")))], check=True)
        wait_for(lambda: {server.port for server in servers_of(api) if server.name == SERVERS[0]} == {port}, "the port")


def servers_of(api: RuntimeApi) -> list[Any]:
    """Its servers; none while it does not run."""
    from plugins.module_utils.gateway.errors import GatewayError

    try:
        return api.servers()
    except GatewayError:
        return []
