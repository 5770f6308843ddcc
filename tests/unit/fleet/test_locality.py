"""Which servers run on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_tasks.fleet import locality
from nexus_tasks.fleet.targets import Target
from nexus_tasks.servers.endpoint import Endpoint

HERE, ELSEWHERE = "http://127.0.0.1:1", "http://192.0.2.1:1"


def server(url: str, model_path: str | None = None) -> Endpoint:
    return Endpoint(url, "llama.cpp", "tiny", model_path=model_path)


@pytest.mark.parametrize(
    ("target", "found", "expected"),
    [
        (Target("t", HERE), server(HERE), True),
        (Target("t", HERE), server(HERE, __file__), True),
        (Target("t", HERE), server(HERE, f"{Path(__file__)}.gone"), False),
        (Target("t", HERE, tunnel="rig"), server(HERE), False),
        (Target("t", ELSEWHERE), server(ELSEWHERE), False),
    ],
    ids=["loopback", "its model is here", "its model is elsewhere", "a tunnel", "another machine"],
)
def test_a_server_runs_here_by_its_address_and_its_model(target: Target, found: Endpoint, expected: bool) -> None:
    assert locality.is_local(target, found) is expected
