"""Traffic of servers at a gateway: drained before they change, taken back once they are proven.

drain = Drain(api, hold_map, ["rig-1_main"], hold=True)
drain.go_on(5)            # Progress(open_requests=3, done=False): again, until it is done or time is up
take_back(api, hold_map, {"rig-1_main": Place(port=8600, slots=4)})

What a server has is counted by HAProxy: requests that reached it otherwise are not known here. A server that is out is
in HAProxy's *maintenance*, and if it comes back it stands in ``hold_map``, as BACKEND/SERVER: while its backend has no
other, requests wait for it in the gateway (``hold.lua``). Those of a server that was stopped for good are refused.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..service.ports import connect
from .errors import GatewayError
from .runtime_api import OldWorkers, RuntimeApi, Server

LOOK_S = 0.1
PASS_S = 0.1  # for requests that looked at the map of held backends just before they were written into it
CONNECT_S = 5.0
NOW = time.time  # of the gateway's clock: the map keeps since when a backend's requests wait


@dataclass(frozen=True)
class Progress:
    """A drain so far: requests that are open yet, and whether it is done."""

    open_requests: int
    done: bool


@dataclass
class Drain:
    """Drain of servers by name, in all their backends. ``names`` that the gateway does not have are left out.

    Args:
        hold_map: the file of the map of backends whose requests wait.
        hold: whether requests wait while a backend has no server left; else they are refused.
        old: workers from before the gateway was loaded anew, whose requests are waited for, too.
    """

    api: RuntimeApi
    hold_map: str
    names: Sequence[str]
    hold: bool = True
    old: OldWorkers | None = None
    changed: bool = False

    def go_on(self, seconds: float, *, last: bool = False) -> Progress:
        """Drain for up to so many seconds. ``last``: what still waits for one of these servers goes elsewhere now."""
        deadline = time.monotonic() + seconds
        while True:
            is_late = time.monotonic() >= deadline
            mine = [server for server in self.api.servers() if server.name in self.names]
            ready = [server for server in mine if not server.is_in_maintenance]
            self._note(mine)
            # What waits for one server is refused when it is the last of its backend that goes: it has to get there.
            if ready and (not self._queued(ready) or (is_late and last)):
                for server in ready:
                    self.api.set_state(server.backend, server.name, "maint")
                self.changed = True
                continue
            open_requests = sum(server.sessions + server.queued for server in mine)
            open_requests += self.old.open_requests(self.names) if self.old else 0
            done = not ready and open_requests == 0
            if is_late or done:
                return Progress(open_requests, done)
            time.sleep(LOOK_S)

    def would_change(self) -> bool:
        """True where a server of these is not out yet, or not in the way that is wanted."""
        noted = dict(self.api.map_entries(self.hold_map))
        mine = [server for server in self.api.servers() if server.name in self.names]
        return any(not server.is_in_maintenance or (_key(server) in noted) != self.hold for server in mine)

    def _note(self, mine: Sequence[Server]) -> None:
        """Note which servers come back, and the backends that lose their last one: their requests wait from now."""
        noted = dict(self.api.map_entries(self.hold_map))
        if not self.hold:
            for key in keys_of(mine) & set(noted):
                self.api.map_delete(self.hold_map, key)
                self.changed = True
            return
        for server in mine:
            if _key(server) not in noted:
                self.api.map_set(self.hold_map, _key(server), f"{NOW():.3f}")
                self.changed = True
        for backend in sorted({server.backend for server in mine if not server.is_in_maintenance} - set(noted)):
            others = [server for server in self.api.servers(backend) if server.name not in self.names]
            if not any(server.state == "up" for server in others):
                self.api.map_set(self.hold_map, backend, f"{NOW():.3f}")
                time.sleep(PASS_S)

    def _queued(self, ready: Iterable[Server]) -> int:
        noted = dict(self.api.map_entries(self.hold_map))
        return sum(server.queued for server in ready if server.backend in noted)


@dataclass(frozen=True)
class Place:
    """The port of a server that was proven, and how many requests it works on at a time; None leaves it as it is."""

    port: int | None = None
    slots: int | None = None


@dataclass
class Back:
    """Servers that were taken back. ``waited_s``: by backend for how many seconds its requests had to wait."""

    changed: bool = False
    waited_s: dict[str, float] = field(default_factory=dict)


def take_back(api: RuntimeApi, hold_map: str, places: Mapping[str, Place], min_age_s: float = 0) -> Back:
    """Have these servers get requests again, in all their backends.

    Args:
        min_age_s: those that were drained less long ago stay out: a run may be at work on them.

    Raises:
        GatewayError: the gateway can't connect to one of them. None is taken back then.
    """
    back = Back()
    mine = [server for server in api.servers() if server.name in places]
    noted = dict(api.map_entries(hold_map))
    young = {server.name for server in mine if NOW() - _moment(noted.get(_key(server))) < min_age_s}
    mine = [server for server in mine if server.name not in young]
    for server in mine:
        back.changed |= _put_in_place(api, server, places[server.name])
    out = [server for server in api.servers() if server.name in places and is_out(server) and server.name not in young]
    for server in out:
        _require_connection(server)
    for server in out:
        api.set_state(server.backend, server.name, "ready")
        back.changed = True
    for backend in {server.backend for server in mine} & set(noted):
        back.waited_s[backend] = round(NOW() - _moment(noted[backend]), 1)
    for key in keys_of(mine) & set(noted):
        api.map_delete(hold_map, key)
        back.changed = True
    return back


def _moment(noted: str | None) -> float:
    """The moment that stands in the map of what is held; long ago where there is none."""
    try:
        return float(noted or 0)
    except ValueError:
        return 0.0


def would_change(api: RuntimeApi, places: Mapping[str, Place]) -> bool:
    """True where taking these servers back would change something."""
    mine = [server for server in api.servers() if server.name in places]
    return any(is_out(server) or differs(server, places[server.name]) for server in mine)


def differs(server: Server, place: Place) -> bool:
    """True where a gateway has another port or number of slots than the server."""
    return place.port not in (None, server.port) or place.slots not in (None, server.max_connections)


def _put_in_place(api: RuntimeApi, server: Server, place: Place) -> bool:
    if place.port not in (None, server.port):
        api.set_address(server.backend, server.name, server.address, int(place.port or 0))
    if place.slots not in (None, server.max_connections):
        api.set_max_connections(server.backend, server.name, int(place.slots or 0))
    return differs(server, place)


def rows(api: RuntimeApi, names: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Servers for people and programs: all, or those of these names."""
    wanted = None if names is None else set(names)
    return [
        {
            "backend": server.backend, "name": server.name, "state": server.state, "sessions": server.sessions,
            "queued": server.queued, "check": server.check, "address": server.address, "port": server.port,
        }
        for server in api.servers()
        if wanted is None or server.name in wanted
    ]  # fmt: skip


def _key(server: Server) -> str:
    """The key of a server that comes back in the map of what is held."""
    return f"{server.backend}/{server.name}"


def keys_of(servers: Iterable[Server]) -> set[str]:
    """The keys of servers, and of backends whose requests all wait for one of them."""
    return {key for server in servers for key in (server.backend, _key(server))}


def is_out(server: Server) -> bool:
    """True where a server gets nothing because somebody said so."""
    return server.is_in_maintenance or server.is_drained


def _require_connection(server: Server) -> None:
    try:
        connect(server.address, server.port, CONNECT_S)
    except OSError as error:
        raise GatewayError(
            f"{server.name} is proven and can't be reached from the gateway at {server.address} port {server.port} "
            f"({error.strerror or error}): let it listen on an address of its network (host), and open that port"
        ) from error
