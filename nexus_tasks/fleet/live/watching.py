"""Watching a fleet: each server and each host is asked again and again, in a thread of its own.

    shown = watching.of_targets(["gpu-hosts"])
    with shown.followed(interval_s=1.0):
        shown.instances[0].last()                               # a scrape.Look

One that hangs holds nothing up. Servers on loopback of a remote host are reached through ssh. Nothing is written
anywhere.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import httpx

from nexus_tasks.core.errors import NexusError
from nexus_tasks.fleet import exporters, targets
from nexus_tasks.fleet.exporters import Exporter
from nexus_tasks.servers import route, scrape
from nexus_tasks.servers.scrape import Look
from nexus_tasks.telemetry import sampling

LATE_S = 10.0
"""Longest time of a look: NVML, or a server that sends a byte now and then, can hold one up for any time."""


class Looking(Protocol):
    """Something that can be looked at again and again, such as :class:`scrape.Source`."""

    def look(self) -> Look: ...


Way = Callable[[], AbstractContextManager[tuple[Looking, bool]]]
"""Gets there for as long as a block lasts; whether it is through a tunnel, which may break."""


@dataclass
class Watch:
    """One thing that is watched: its last look, and the good one before it."""

    host: str
    name: str
    way: Way
    now: Look | None = None
    before: Look | None = None
    late_at: float = math.inf
    """The moment of ``time.monotonic`` from which the last look is no longer what is the case."""

    def follow(self, stop: threading.Event, interval_s: float) -> None:
        """Look until told to stop; what goes wrong is the last look's problem, and is tried again."""
        while not stop.is_set():
            try:
                with self.way() as (there, tunnelled):
                    while not stop.is_set():
                        self.keep(there.look(), time.monotonic() + interval_s + LATE_S)
                        stop.wait(interval_s)
                        if tunnelled and self.now and self.now.problem:
                            break  # through another one: ssh may have died
            except NexusError as error:
                self.keep(Look(time.monotonic(), problem=error.message))
                stop.wait(interval_s)

    def keep(self, look: Look, late_at: float = math.inf) -> None:
        """Make this the last look."""
        self.before, self.now = (None if self.now is None or self.now.problem else self.now), look
        self.late_at = late_at

    def last(self) -> Look | None:
        """The last look, or that there has been none for too long."""
        late_s = time.monotonic() - self.late_at + LATE_S
        if self.now and not self.now.problem and late_s > LATE_S:
            return Look(self.now.at, problem=f"has not answered for {late_s:.0f} s")
        return self.now

    @property
    def settled(self) -> bool:
        """True once there is a second look, or none is to be had."""
        return self.now is not None and (self.now.problem is not None or self.before is not None)


class Here:
    """This machine, without an exporter."""

    def __init__(self, gpus: sampling.Gpus) -> None:
        self._gpus = gpus

    def look(self) -> Look:
        return Look(time.monotonic(), machine=scrape.this_machine(self._gpus))


@dataclass
class WatchedFleet:
    """Servers and hosts that are watched. ``without`` names the hosts whose GPUs nobody tells of."""

    instances: list[Watch]
    hosts: list[Watch]
    without: list[str] = field(default_factory=list)

    @property
    def watches(self) -> list[Watch]:
        return [*self.instances, *self.hosts]

    @contextlib.contextmanager
    def followed(self, interval_s: float) -> Iterator[None]:
        """Watch everything for as long as the block lasts."""
        stop = threading.Event()
        threads = [
            threading.Thread(target=watch.follow, args=(stop, interval_s), name=watch.name, daemon=True)
            for watch in self.watches
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            deadline = time.monotonic() + scrape.TIMEOUT_S + 1
            for thread in threads:  # tunnels are closed by their threads
                thread.join(max(0.0, deadline - time.monotonic()))


def of_targets(texts: Sequence[str]) -> WatchedFleet:
    """The servers that the TARGETs of a command name, and their hosts.

    Raises:
        UsageError, DeployError: as :func:`targets.find` does.
    """
    named = targets.find(texts)
    instances = [Watch(target.instance.host if target.instance else "", target.name, _to_server(target))
                 for target in named]  # fmt: skip
    deployed = {target.instance.host: target.instance for target in named if target.instance}
    declared = exporters.declared(",".join(deployed)) if deployed else {}
    hosts, without = [], []
    for host, instance in sorted(deployed.items()):
        if host in declared:
            hosts.append(Watch(host, host, _to_exporter(declared[host])))
        elif instance.ssh is None and route.leads_to_loopback(httpx.URL(instance.base_url).host):
            hosts.append(Watch(host, host, _to_this_machine))
        else:
            without.append(host)
    return WatchedFleet(instances, hosts, without)


def _to_server(target: targets.Target) -> Way:
    @contextlib.contextmanager
    def way() -> Iterator[tuple[Looking, bool]]:
        argv = target.instance.argv if target.instance else []
        with (
            targets.reach(target) as reached,
            scrape.Source(
                target.name, reached.base_url, reached.api_key, wants=scrape.Server,
                may_sleep="--sleep-idle-seconds" in argv,
            ) as source,
        ):  # fmt: skip
            yield source, reached.tunnel is not None

    return way


def _to_exporter(exporter: Exporter) -> Way:
    @contextlib.contextmanager
    def way() -> Iterator[tuple[Looking, bool]]:
        with exporter.reach() as base_url, scrape.Source(exporter.host, base_url, wants=scrape.Machine) as source:
            yield source, exporter.ssh is not None

    return way


@contextlib.contextmanager
def _to_this_machine() -> Iterator[tuple[Looking, bool]]:
    with sampling.Gpus() as gpus:
        yield Here(gpus), False
