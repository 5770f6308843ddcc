from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nexus_tasks.batches import runner
from nexus_tasks.batches.endpoint import reached
from nexus_tasks.core.errors import EndpointDown, Unauthorized, UsageError
from nexus_tasks.fleet.inventory import Instance
from nexus_tasks.fleet.targets import Target
from tests.conftest import free_port
from tests.support.batch_runs import QUICK, Kept, items
from tests.support.batch_server import BatchServer, Request


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer() as running:
        yield running


@pytest.fixture
def nobody() -> Target:
    return Target("nobody", f"http://127.0.0.1:{free_port()}")


def target(server: BatchServer) -> Target:
    return Target(server.url, server.url)


def test_an_endpoint_is_told_with_what_it_serves(server: BatchServer) -> None:
    with reached([target(server)], model=None) as endpoints:
        found = endpoints[0].server
        assert found
        assert (found.model, found.build, found.total_slots, found.n_ctx) == ("tiny", "b1", 4, 1024)


def test_an_endpoint_that_is_down_may_be_there_later(server: BatchServer, nobody: Target) -> None:
    with reached([nobody, target(server)], model=None) as endpoints:
        down, there = endpoints
        assert (down.server, down.is_lost, there.problem) == (None, False, None)
        assert down.problem == f"{nobody.base_url} does not answer: connection refused"


def test_without_any_endpoint_nothing_is_begun(nobody: Target) -> None:
    with (
        pytest.raises(EndpointDown, match=r"no endpoint answers: .* connection refused"),
        reached([nobody], model=None),
    ):
        pass


def test_a_target_without_a_way_to_it_is_lost_and_the_others_are_used(server: BatchServer) -> None:
    lost = Target("gpu1", "", lost="no ssh tunnel to gpu1: denied")
    with reached([lost, target(server)], model=None) as endpoints:
        assert (endpoints[0].is_lost, endpoints[0].problem) == (True, "gpu1: no ssh tunnel to gpu1: denied")


def test_an_endpoint_that_wants_a_key_is_refused_at_once(server: BatchServer) -> None:
    with BatchServer() as other:
        other.key = "secret"
        with (
            pytest.raises(Unauthorized, match="wants an API key"),
            reached([target(server), target(other)], model=None),
        ):
            pass


def test_endpoints_of_two_models_are_refused(server: BatchServer) -> None:
    with BatchServer(model="another") as other:
        both = [target(server), target(other)]
        with pytest.raises(UsageError, match=r"serves another, and .* serves tiny"), reached(both, model=None):
            pass


def test_another_model_than_that_of_the_batch_is_refused(server: BatchServer) -> None:
    expected = "serves tiny, and the batch was begun with former"
    with pytest.raises(UsageError, match=expected), reached([target(server)], model="former"):
        pass


# A program in the place of ssh, which listens where -L says and leads there.
SSH = """#!{python}
import asyncio, sys
_, here, there, port = sys.argv[sys.argv.index("-L") + 1].split(":")

async def relay(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()

async def lead(reader, writer):
    other_reader, other_writer = await asyncio.open_connection(there, int(port))
    await asyncio.gather(relay(reader, other_writer), relay(other_reader, writer))

async def main():
    async with await asyncio.start_server(lead, "127.0.0.1", int(here)) as server:
        await server.serve_forever()

asyncio.run(main())
"""


def test_a_tunnel_that_breaks_is_opened_anew(server: BatchServer, tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(SSH.format(python=sys.executable))
    ssh.chmod(0o755)
    instance = Instance("rig", "main", server.url, None, None, {}, [], "log", ssh=(str(ssh), "rig"))
    broken = threading.Event()

    def script(asked: Request) -> None:
        if asked.prompt == "row 5" and not broken.is_set():
            broken.set()
            for process in psutil.process_iter(["cmdline"]):
                if str(ssh) in (process.info["cmdline"] or ()) and process.info["cmdline"][0] == sys.executable:
                    process.kill()
        asked.answer()

    server.script = script
    kept = Kept()
    with reached([Target("rig/main", server.url, instance=instance)], model=None) as endpoints:
        assert endpoints[0].found
        assert endpoints[0].found.target.tunnel == "rig"
        outcome = runner.run(items([f"row {number}" for number in range(20)]), endpoints, kept, QUICK, total=20)
    assert (outcome.answered, broken.is_set()) == (20, True)
