from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugins.module_utils.gateway.runtime_api import RuntimeApi
from plugins.module_utils.gateway.states import HOLD_MAP, STATE_FILE, keep_places, kept_out, wait_for_held
from plugins.module_utils.gateway.traffic import Drain
from tests.conftest import free_port
from tests.support.haproxy import Haproxy, needs_haproxy, running_haproxy

pytestmark = needs_haproxy

SECTIONS = """\
  http-request deny if {{ path,map({root}/run/hold.map) -m found }}
  default_backend model_a
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 60s
  load-server-state-from-file global
backend model_a
  server one 127.0.0.1:{port}
  server two 127.0.0.1:{port}
"""


@contextlib.contextmanager
def gateway(root: Path, port: int) -> Iterator[Haproxy]:
    """HAProxy in a gateway's folder; its socket is where a gateway has it."""
    (root / "run").mkdir(exist_ok=True)
    for name in (HOLD_MAP, STATE_FILE):
        (root / name).touch()
    state_file = f"server-state-file {root / STATE_FILE}"
    with running_haproxy(root, SECTIONS.format(root=root, port=port), state_file) as running:
        (root / "run" / "admin.sock").unlink(missing_ok=True)
        (root / "run" / "admin.sock").symlink_to(running.socket)
        yield running


def test_what_is_out_stays_out_over_a_reload_where_the_new_configuration_has_it(tmp_path: Path) -> None:
    port, another = free_port(), free_port()
    with gateway(tmp_path, port) as running:
        api = RuntimeApi(str(running.socket))
        assert Drain(api, str(tmp_path / HOLD_MAP), ["one"]).go_on(30).done
        noted = api.map_entries(str(tmp_path / HOLD_MAP))
        servers = [{"name": name, "address": "127.0.0.1", "port": another} for name in ("one", "two")]
        with kept_out(str(tmp_path), servers), gateway(tmp_path, another) as second:
            api = RuntimeApi(str(second.socket))
            states = [(server.name, server.state, server.port) for server in api.servers()]
            assert states == [("one", "maintenance", another), ("two", "up", another)]
            assert api.map_entries(str(tmp_path / HOLD_MAP)) == noted
            assert [key for key, _ in noted] == ["model_a/one"]
    # What begins later begins with all.
    with gateway(tmp_path, port) as running:
        api = RuntimeApi(str(running.socket))
        assert [server.state for server in api.servers()] == ["up", "up"]
        assert api.map_entries(str(tmp_path / HOLD_MAP)) == []


def test_without_a_process_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with kept_out(str(tmp_path), []):
        assert (tmp_path / HOLD_MAP).read_text() == ""


def test_one_that_begins_after_a_crash_has_servers_where_they_were_taken_back(tmp_path: Path) -> None:
    port, another = free_port(), free_port()
    with gateway(tmp_path, port) as running:
        api = RuntimeApi(str(running.socket))
        api.set_address("model_a", "two", "127.0.0.1", another)
        api.set_state("model_a", "one", "maint")  # by another run, which is at work on it
        keep_places(str(tmp_path))
    with gateway(tmp_path, port) as running:
        found = RuntimeApi(str(running.socket)).servers()
        assert [(server.name, server.state, server.port) for server in found] == [
            ("one", "up", port),
            ("two", "up", another),
        ]


@pytest.mark.parametrize(("age_s", "waits"), [(0.0, True), (0.8, True), (5.0, False)])
def test_a_reload_waits_for_requests_that_are_held_as_long_as_they_may_be(
    tmp_path: Path, age_s: float, waits: bool
) -> None:
    limit_s = 1.5
    with gateway(tmp_path, free_port()) as running:
        api = RuntimeApi(str(running.socket))
        api.map_set(str(tmp_path / HOLD_MAP), "model_a/one", f"{time.time():.3f}")  # nothing waits for it alone
        began = time.monotonic()
        wait_for_held(str(tmp_path), limit_s)
        assert time.monotonic() - began < limit_s
        api.map_set(str(tmp_path / HOLD_MAP), "model_a", f"{time.time() - age_s:.3f}")
        began = time.monotonic()
        wait_for_held(str(tmp_path), limit_s)
        assert (time.monotonic() - began > 0.4) == waits
