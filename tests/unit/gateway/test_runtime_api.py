from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugins.module_utils.gateway.errors import GatewayDown, GatewayError
from plugins.module_utils.gateway.runtime_api import RuntimeApi
from tests.conftest import free_port, wait_for
from tests.support.haproxy import Haproxy, needs_haproxy, running_haproxy

pytestmark = needs_haproxy

SECTIONS = """\
  http-request set-var(txn.user) req.hdr(x-key),map({map})
  http-request return status 200 content-type text/plain lf-string %[var(txn.user)] if {{ path /who }}
  default_backend model_a
backend model_a
  server rig-1_main 127.0.0.1:{dead} maxconn 4
  server rig-2_main 127.0.0.1:{dead} check inter 20ms
backend model_b
  server rig-1_small [::1]:{dead}
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("maps") / "keys.map"
    path.write_text("first alice\n")
    return path


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Haproxy]:
    sections = SECTIONS.format(dead=free_port(), map=keys)
    with running_haproxy(tmp_path_factory.mktemp("haproxy"), sections) as running:
        yield running


@pytest.fixture
def api(haproxy: Haproxy) -> RuntimeApi:
    return RuntimeApi(str(haproxy.socket))


def server_of(api: RuntimeApi, backend: str, name: str) -> str:
    (state,) = [each.state for each in api.servers() if (each.backend, each.name) == (backend, name)]
    return state


def test_servers_are_listed_with_their_addresses_limits_and_states(api: RuntimeApi) -> None:
    wait_for(lambda: server_of(api, "model_a", "rig-2_main") == "down", "the failed check", 30)
    first, second, third = api.servers()
    assert (first.backend, first.name, first.address, first.max_connections) == (
        "model_a",
        "rig-1_main",
        "127.0.0.1",
        4,
    )
    assert (first.state, first.sessions, first.queued, first.requests) == ("up", 0, 0, 0)
    assert (second.state, second.check, second.max_connections) == ("down", "L4CON", None)
    assert (third.backend, third.address, third.port) == ("model_b", "::1", first.port)
    assert [each.name for each in api.servers("model_b")] == ["rig-1_small"]
    assert api.waiting() == {"model_a": 0, "model_b": 0}


def test_a_server_is_drained_put_in_maintenance_and_taken_back(api: RuntimeApi) -> None:
    for state, shown in [("drain", "drained"), ("maint", "maintenance"), ("ready", "up")]:
        api.set_state("model_a", "rig-1_main", state)
        assert server_of(api, "model_a", "rig-1_main") == shown


def test_a_server_that_is_down_is_known_to_be_drained(api: RuntimeApi) -> None:
    api.set_state("model_a", "rig-2_main", "drain")
    wait_for(lambda: server_of(api, "model_a", "rig-2_main") == "down", "the failed check", 30)
    assert [each.is_drained for each in api.servers("model_a")] == [False, True]
    api.set_state("model_a", "rig-2_main", "ready")
    assert [each.is_drained for each in api.servers("model_a")] == [False, False]


def test_addresses_and_limits_change(api: RuntimeApi) -> None:
    api.set_address("model_b", "rig-1_small", "127.0.0.2", 8601)
    api.set_address("model_b", "rig-1_small", "127.0.0.2", 8601)  # as it is: no failure
    api.set_max_connections("model_b", "rig-1_small", 7)
    (server,) = api.servers("model_b")
    assert (server.address, server.port, server.max_connections) == ("127.0.0.2", 8601, 7)


def test_map_entries_are_set_replaced_and_deleted_whatever_they_hold(api: RuntimeApi, keys: Path) -> None:
    strange = r"""a;b "c" 'd' #e \f <<g"""
    for key in ("second", "semi;colon", "quo\"te's", "back\\slash", "ha#sh", "<<"):
        api.map_set(str(keys), key, "bob")
        api.map_set(str(keys), key, strange)
        assert api.map_entries(str(keys)) == [("first", "alice"), (key, strange)]
        api.map_delete(str(keys), key)
        api.map_delete(str(keys), key)  # gone already: no failure
    assert api.map_entries(str(keys)) == [("first", "alice")]


@pytest.mark.parametrize("text", ["", "two\nlines", "tab\there"])
def test_what_a_command_cant_hold_is_refused(api: RuntimeApi, keys: Path, text: str) -> None:
    with pytest.raises(GatewayError, match="empty or has a control character"):
        api.map_set(str(keys), text, "bob")
    with pytest.raises(GatewayError, match="line break"):
        api.command("show info\nshow stat")


def test_what_is_refused_is_one_line(api: RuntimeApi) -> None:
    for call in (
        lambda: api.set_state("model_a", "rig-9_main", "drain"),
        lambda: api.set_state("model_a", "rig-1_main", "asleep"),
        lambda: api.set_address("model_a", "rig-1_main", "not an address", 1),
        lambda: api.set_max_connections("model_a", "rig-1_main", -1),
        lambda: api.map_entries("/nowhere.map"),
        lambda: api.command("bogus"),
    ):
        with pytest.raises(GatewayError) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_gateway_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(GatewayDown, match=r"does not run: .*gone.sock: No such file"):
        RuntimeApi(str(tmp_path / "gone.sock")).servers()
    (tmp_path / "file").touch()
    with pytest.raises(GatewayError, match=r"can't be asked at .*: Not a directory"):
        RuntimeApi(str(tmp_path / "file" / "socket")).servers()


def test_a_gateway_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "mute.sock"
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(path))
        mute.listen()
        with pytest.raises(GatewayError, match=r"did not answer within 0\.2 s"):
            RuntimeApi(str(path), timeout_s=0.2).servers()
