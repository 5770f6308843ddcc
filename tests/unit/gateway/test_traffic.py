from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from plugins.module_utils.gateway.errors import GatewayError
from plugins.module_utils.gateway.runtime_api import RuntimeApi
from plugins.module_utils.gateway.traffic import Drain, Place, Progress, take_back, would_change
from tests.conftest import ROOT, free_port, wait_for
from tests.support.haproxy import needs_haproxy, running_haproxy
from tests.support.scripted_server import Handler, serving

pytestmark = needs_haproxy

WORK_S = 0.03
SLOTS = 2
DEFAULTS = """\
  default_backend model_a
defaults
  mode http
  timeout connect 1s
  timeout client 1s
  timeout server 60s
  timeout queue 60s
  retries 3
  option redispatch 1
  option abortonclose
  option http-buffer-request
"""
BACKEND = """\
backend model_a
  balance {balance}
  http-request lua.hold {limit} if {{ nbsrv eq 0 }} || {{ be_name,map({map}) -m found }}
"""
SERVER = f"  server {{name}} 127.0.0.1:{{port}} maxconn {SLOTS} check inter 100ms\n"
HASH = "hash path,xxh64\n  hash-type consistent\n  hash-balance-factor 150"


class Upstream:
    """A server that answers each request after a moment, with its own name."""

    def __init__(self, name: str) -> None:
        self.name, self.began, self.port = name, 0, 0
        self.slow_s = WORK_S

    def answer(self, handler: Handler) -> None:
        self.began += 1
        time.sleep(self.slow_s)  # the work of a request
        handler.answer(self.name.encode())


@dataclass
class Gateway:
    """HAProxy before the two upstreams, and what clients of it got."""

    api: RuntimeApi
    hold_map: str
    url: str
    upstreams: dict[str, Upstream]
    got: collections.Counter[str] = field(default_factory=collections.Counter)
    longest_s: float = 0.0

    @contextlib.contextmanager
    def load(self, clients: int) -> Iterator[None]:
        """Clients that ask one request after another while the block lasts."""
        over = threading.Event()
        threads = [threading.Thread(target=self._ask, args=(over,)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join(60)

    def _ask(self, over: threading.Event) -> None:
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as client:
            while not over.is_set():
                began = time.monotonic()
                answer = client.get("/x")
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                self.got[answer.text if answer.status_code == 200 else str(answer.status_code)] += 1

    def state(self, name: str) -> str:
        return next(server.state for server in self.api.servers() if server.name == name)


@contextlib.contextmanager
def gateway(folder: Path, names: list[str], *, balance: str = "leastconn", limit: int = 30) -> Iterator[Gateway]:
    hold_map = folder / "hold.map"
    hold_map.touch()
    upstreams = {name: Upstream(name) for name in names}
    with contextlib.ExitStack() as stack:
        for upstream in upstreams.values():
            url = stack.enter_context(serving(upstream.answer))
            upstream.port = int(url.rpartition(":")[2])
        sections = DEFAULTS + BACKEND.format(balance=balance, limit=limit, map=hold_map)
        sections += "".join(SERVER.format(name=name, port=upstream.port) for name, upstream in upstreams.items())
        held = f"setenv HOLD_MAP {hold_map}\n  lua-load {ROOT}/roles/gateway/files/hold.lua"
        running = stack.enter_context(running_haproxy(folder, sections, held))
        yield Gateway(RuntimeApi(str(running.socket)), str(hold_map), running.url, upstreams)


@pytest.mark.parametrize("balance", ["leastconn", HASH], ids=["leastconn", "hash"])
def test_requests_wait_while_the_only_server_changes_and_none_is_lost(tmp_path: Path, balance: str) -> None:
    with gateway(tmp_path, ["one"], balance=balance) as found:
        upstream = found.upstreams["one"]
        with found.load(8):
            for _ in range(5):
                wait_for(lambda: upstream.began > 20, "requests", 30)
                drain = Drain(found.api, found.hold_map, ["one"])
                assert drain.go_on(30) == Progress(0, True)
                assert (drain.changed, found.state("one")) == (True, "maintenance")
                upstream.began = 0
                time.sleep(0.3)
                assert upstream.began == 0  # nothing reaches a server that changes
                back = take_back(found.api, found.hold_map, {"one": Place()})
                assert back.changed
                assert 0.3 <= back.waited_s["model_a"] < 30
        assert set(found.got) == {"one"}
        assert found.api.map_entries(found.hold_map) == []


def test_the_other_server_answers_while_one_changes(tmp_path: Path) -> None:
    with gateway(tmp_path, ["one", "two"]) as found, found.load(6):
        wait_for(lambda: found.upstreams["one"].began > 10, "requests", 30)
        drain = Drain(found.api, found.hold_map, ["one"])
        assert drain.go_on(30).done
        assert [key for key, _ in found.api.map_entries(found.hold_map)] == ["model_a/one"]  # it comes back
        found.upstreams["one"].began = found.upstreams["two"].began = 0
        wait_for(lambda: found.upstreams["two"].began > 20, "requests", 30)
        assert found.upstreams["one"].began == 0
        assert take_back(found.api, found.hold_map, {"one": Place()}).waited_s == {}
        wait_for(lambda: found.upstreams["one"].began > 10, "requests", 30)
    assert set(found.got) == {"one", "two"}


def test_requests_wait_when_the_last_other_server_dies_while_one_changes(tmp_path: Path) -> None:
    with gateway(tmp_path, ["one", "two"]) as found:
        assert Drain(found.api, found.hold_map, ["one"]).go_on(30).done
        found.api.set_address("model_a", "two", "127.0.0.1", free_port())
        wait_for(lambda: found.state("two") == "down", "the failed check", 30)
        with found.load(2):
            time.sleep(0.3)
            assert not found.got
            take_back(found.api, found.hold_map, {"one": Place()})
        assert set(found.got) == {"one"}


def test_a_drain_says_what_is_open_when_its_time_is_up(tmp_path: Path) -> None:
    with gateway(tmp_path, ["one"]) as found:
        found.upstreams["one"].slow_s = 2
        with found.load(SLOTS + 1):  # one more than the server has slots: it waits, and is not lost
            wait_for(lambda: found.upstreams["one"].began == SLOTS, "requests", 30)
            drain = Drain(found.api, found.hold_map, ["one"])
            assert drain.go_on(0.2) == Progress(SLOTS, False)
            assert drain.go_on(0.2, last=True) == Progress(SLOTS, False)
            found.upstreams["one"].slow_s = 0
            assert drain.go_on(30).done
            take_back(found.api, found.hold_map, {"one": Place()})
        assert set(found.got) == {"one"}


def test_a_wait_ends_at_its_limit_with_a_refusal(tmp_path: Path) -> None:
    with gateway(tmp_path, ["one"], limit=1) as found:
        assert Drain(found.api, found.hold_map, ["one"]).go_on(30).done
        with found.load(1):
            wait_for(lambda: found.got, "the refusal", 30)
        assert set(found.got) == {"503"}


def test_requests_to_what_was_stopped_for_good_are_refused_at_once(tmp_path: Path) -> None:
    with gateway(tmp_path, ["one"]) as found:
        drain = Drain(found.api, found.hold_map, ["one"], hold=False)
        assert drain.would_change()
        assert drain.go_on(30).done
        assert (found.state("one"), drain.would_change()) == ("maintenance", False)
        with found.load(1):
            wait_for(lambda: found.got, "the refusal", 30)
        assert set(found.got) == {"503"}


def test_a_server_that_changed_and_is_stopped_then_is_not_waited_for(tmp_path: Path) -> None:
    with gateway(tmp_path, ["one"]) as found:
        assert Drain(found.api, found.hold_map, ["one"]).go_on(30).done
        with found.load(1):
            drain = Drain(found.api, found.hold_map, ["one"], hold=False)
            assert drain.would_change()
            assert drain.go_on(30).done
            wait_for(lambda: found.got, "the refusal", 30)
        assert set(found.got) == {"503"}
        assert not drain.would_change()


def test_a_second_time_nothing_changes(tmp_path: Path) -> None:
    with gateway(tmp_path, ["one"]) as found:
        assert not take_back(found.api, found.hold_map, {"one": Place()}).changed
        assert Drain(found.api, found.hold_map, ["one"]).go_on(30).done
        again = Drain(found.api, found.hold_map, ["one", "unknown"])
        assert again.go_on(30).done
        assert not again.changed


def test_a_server_that_the_gateway_cant_reach_is_not_taken_back(tmp_path: Path) -> None:
    with gateway(tmp_path, ["one"]) as found:
        assert Drain(found.api, found.hold_map, ["one"]).go_on(30).done
        port = free_port()
        found.api.set_address("model_a", "one", "127.0.0.1", port)
        with pytest.raises(GatewayError, match=rf"one is proven and can't be reached .* 127.0.0.1 port {port} .*open"):
            take_back(found.api, found.hold_map, {"one": Place()})
        assert found.state("one") == "maintenance"


def test_a_server_that_has_another_port_and_more_slots_is_taken_back_there(tmp_path: Path) -> None:
    with gateway(tmp_path, ["one", "two"]) as found:
        assert Drain(found.api, found.hold_map, ["one"]).go_on(30).done
        place = {"one": Place(found.upstreams["two"].port, 7)}
        assert would_change(found.api, place)
        assert take_back(found.api, found.hold_map, place).changed
        assert found.state("one") == "up"
        assert not would_change(found.api, place)
        assert not take_back(found.api, found.hold_map, place).changed
        one, two = found.api.servers()
        assert (one.port, one.max_connections, two.max_connections) == (two.port, 7, SLOTS)
