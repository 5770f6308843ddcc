"""Endpoints of a batch: what is at each target when the batch begins, and whenever it is asked again.

with reached(targets.find(["gpu-hosts"]), model=None) as endpoints:
    endpoints[0].name, endpoints[0].server.model
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

from nexus_tasks.core.errors import EndpointDown, NexusError, UsageError
from nexus_tasks.fleet import targets
from nexus_tasks.fleet.targets import Target
from nexus_tasks.servers import client, endpoint, route
from nexus_tasks.servers.endpoint import Endpoint
from nexus_tasks.servers.route import Route


class Found(NamedTuple):
    """A server, the target as it is reached, and the way to it."""

    server: Endpoint
    target: Target
    way: Route


class Access:
    """Access to a target: by a tunnel where it needs one, which is opened anew when it is gone."""

    def __init__(self, wanted: Target) -> None:
        self._wanted = wanted
        self._target: Target | None = None
        self._tunnel = contextlib.ExitStack()
        self._is_closed = False

    def ask(self) -> Found:
        """The server that is there now, the target as it is reached, and the way to it.

        Raises:
            EndpointDown, Unauthorized, NotOpenAI: as :func:`nexus_tasks.servers.endpoint.probe`.
        """
        target = self._target or self._open()
        try:
            return _found(target)
        except EndpointDown:
            if target.tunnel is None or _accepts(target.base_url):
                raise
            return _found(self._open())

    def close(self) -> None:
        """End the tunnel."""
        self._is_closed = True
        self._tunnel.close()

    def _open(self) -> Target:
        self._tunnel.close()
        self._target = None
        if self._is_closed:
            raise EndpointDown(f"{self._wanted.name} is not needed any more", hint="begin another run")
        self._target = self._tunnel.enter_context(targets.reach(self._wanted))
        if self._is_closed:  # meanwhile, in another thread
            self._tunnel.close()
        return self._target


@dataclass(frozen=True)
class Reached:
    """A target that can be used, or could be later: ``found`` is None where it did not answer, for ``problem``.

    One that is lost can't: there is no way to it.
    """

    target: Target
    access: Access
    found: Found | None = None
    problem: str | None = None

    @property
    def name(self) -> str:
        """The name of the target, which entries of the journal have as ``endpoint``."""
        return self.target.name

    @property
    def server(self) -> Endpoint | None:
        """The server that was found; None where there was none."""
        return self.found.server if self.found else None

    @property
    def is_lost(self) -> bool:
        """True where there is no way to it."""
        return self.target.lost is not None


@contextlib.contextmanager
def reached(wanted: Sequence[Target], *, model: str | None) -> Iterator[list[Reached]]:
    """The endpoints behind targets, for as long as the block lasts.

    Args:
        model: the one that has to be there, as in a batch that is resumed; None takes that of the first that answers.

    Raises:
        Unauthorized: one of them wants a key, or another one.
        UsageError: one of them serves another model than the others, or than ``model``.
        NotOpenAI: one of them is no such server.
        EndpointDown: none of them answers.
    """
    with contextlib.ExitStack() as stack:
        ways = [stack.enter_context(contextlib.closing(Access(target))) for target in wanted]
        endpoints = [one.result() for one in [_asking(*pair) for pair in zip(wanted, ways, strict=True)]]
        down = [one for one in endpoints if one.server is None]
        if len(down) == len(endpoints):
            raise EndpointDown(
                "no endpoint answers: " + "; ".join(one.problem or one.name for one in down[:3]),
                hint="nox -s status shows how the servers are; start one, then try again",
            )
        _check_models(endpoints, model)
        yield endpoints


def _asking(target: Target, way: Access) -> Future[Reached]:
    """Ask what is at a target, in a thread that holds up no Ctrl-C."""
    asked: Future[Reached] = Future()

    def ask() -> None:
        try:
            asked.set_result(_asked(target, way))
        except BaseException as error:  # is raised where the result is wanted
            asked.set_exception(error)

    threading.Thread(target=ask, name="batch-look", daemon=True).start()
    return asked


def _asked(target: Target, access: Access) -> Reached:
    try:
        return Reached(target, access, access.ask())
    except EndpointDown as error:
        return Reached(target, access, problem=problem_of(error))


def _found(target: Target) -> Found:
    way = route.to(target.base_url).resolved()
    with client.connect(way, target.api_key) as connected:
        return Found(endpoint.probe(connected, model=target.model, api_path=target.api_path), target, way)


def _accepts(base_url: str) -> bool:
    """True where something listens at an address of this machine."""
    way = route.to(base_url)
    with socket.socket() as line:
        line.settimeout(1.0)
        return line.connect_ex((way.host, way.port)) == 0


def _check_models(endpoints: Sequence[Reached], model: str | None) -> None:
    served = {one.name: one.server.model for one in endpoints if one.server}
    first, found = next(iter(served.items()))
    expected = model or found
    other = next(((name, its) for name, its in served.items() if its != expected), None)
    if other is None:
        return
    whose = "the batch was begun with" if model else f"{first} serves"
    raise UsageError(
        f"{other[0]} serves {other[1]}, and {whose} {expected}",
        hint="a batch is answered by one model: name endpoints that serve it",
    )


def problem_of(error: NexusError) -> str:
    """An error as a line of the runner's."""
    return " ".join(error.message.split())
