"""Looking again and again, whatever goes wrong."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from nexus_tasks.core.errors import EndpointDown
from nexus_tasks.fleet.live import rows, watching
from nexus_tasks.fleet.live.watching import Watch
from nexus_tasks.servers.scrape import Look, Server


def test_each_look_has_its_time_and_one_that_takes_longer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LATE_S", 0.0)
    stop, hangs = threading.Event(), threading.Event()

    class Hangs:
        def look(self) -> Look:
            if one.now:
                hangs.set()
                stop.wait(20)
            return Look(1.0, server=Server(1, 1))

    one = Watch("rig-1", "rig-1/main", lambda: contextlib.nullcontext((Hangs(), False)))
    thread = threading.Thread(target=one.follow, args=(stop, 0))
    thread.start()
    assert hangs.wait(20)
    problem = rows.instance_row(one)["problem"]
    stop.set()
    thread.join()
    assert str(problem).startswith("has not answered for ")


def test_what_cannot_be_reached_is_tried_again_and_a_tunnel_that_broke_is_opened_again() -> None:
    stop = threading.Event()
    ways: list[str] = []

    class Broken:
        def look(self) -> Look:
            ways.append("look")
            if len(ways) > 6:
                stop.set()
            return Look(float(len(ways)), problem="connection refused")

    @contextlib.contextmanager
    def way() -> Iterator[tuple[Broken, bool]]:
        ways.append("way")
        if len(ways) == 1:
            raise EndpointDown("no ssh tunnel to rig-1", hint="")
        yield Broken(), True

    one = Watch("rig-1", "rig-1/main", way)
    one.follow(stop, 0)
    assert ways[:6] == ["way", "way", "look", "way", "look", "way"]
    assert one.now
    assert one.now.problem == "connection refused"
