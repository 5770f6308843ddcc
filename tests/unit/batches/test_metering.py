"""The energy of a batch: metered where it can be, and never in the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from nexus_tasks.batches import endpoint, runner
from nexus_tasks.batches.entries import Session
from nexus_tasks.batches.metering import metered
from nexus_tasks.batches.options import COMPLETE
from nexus_tasks.core.errors import DeployError
from nexus_tasks.fleet import exporters
from nexus_tasks.fleet.exporters import Exporter
from nexus_tasks.fleet.inventory import Instance
from nexus_tasks.fleet.targets import Target
from nexus_tasks.stats.energy import EnergySum
from tests.conftest import free_port
from tests.support.batch_runs import QUICK, Kept, items
from tests.support.batch_server import BatchServer
from tests.support.fake_exporter import FakeExporter

Declare = Callable[..., None]


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Declares exporters of hosts, which the inventory would have."""

    def declared(**addresses: str) -> None:
        def beside(measured: Sequence[Target]) -> dict[str, Exporter]:
            hosts = {target.instance.host for target in measured if target.instance}
            return {host: Exporter(host, address) for host, address in addresses.items() if host in hosts}

        monkeypatch.setattr(exporters, "beside", beside)

    return declared


def deployed(host: str, url: str) -> Target:
    """A server of a host that is not this one: its model is not here."""
    instance = Instance(host, "main", url, None, {"path": "/of/another/host.gguf"}, {}, [], "log")
    return Target(instance.target, url, instance=instance)


def run(*targets: Target) -> tuple[EnergySum | None, list[str]]:
    """A batch of three prompts; its energy, and what was said."""
    kept, said = Kept(), list[str]()
    with endpoint.reached(targets, model=None) as endpoints, metered(endpoints, said.append) as meter:
        outcome = runner.run(items(["a", "b", "c"]), endpoints, kept, QUICK, total=3, meter=meter)
    assert (outcome.ended, outcome.answered) == (COMPLETE, 3)
    begun, ended = kept.of(Session)
    assert begun.energy is None
    return ended.energy, said


def test_a_session_ends_with_the_energy_of_its_servers(declare: Declare) -> None:
    with BatchServer() as server, FakeExporter() as fake:
        declare(rig1=fake.address)
        energy, said = run(deployed("rig1", server.url))
    assert energy
    assert (energy.sources, energy.at_least, said) == (("rig1",), False, [])


def test_a_server_without_an_exporter_makes_it_a_lower_bound(declare: Declare) -> None:
    with BatchServer() as server, BatchServer() as other, FakeExporter() as fake:
        declare(rig1=fake.address)
        energy, said = run(deployed("rig1", server.url), deployed("rig2", other.url))
    assert energy
    assert (energy.sources, energy.at_least, said) == (("rig1",), True, [])


def test_an_exporter_that_does_not_answer_is_named_and_the_batch_goes_on(declare: Declare) -> None:
    with BatchServer() as server:
        declare(rig1=f"127.0.0.1:{free_port()}")
        energy, said = run(deployed("rig1", server.url))
    assert energy is None
    assert said == ["the energy of rig1 is not known: connection refused"]


def test_a_gpu_that_tells_nothing_is_named_and_the_batch_goes_on(declare: Declare) -> None:
    with BatchServer() as server, FakeExporter(counts=False) as fake:
        declare(rig1=fake.address)
        energy, said = run(deployed("rig1", server.url))
    assert (energy, said) == (None, ["the energy of rig1 is not known of all GPUs, or not all of the time"])


def test_an_inventory_that_fails_is_told_and_the_batch_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Sequence[Target]) -> dict[str, Exporter]:
        raise DeployError("no host answers", hint="look at them")

    monkeypatch.setattr(exporters, "beside", fails)
    with BatchServer() as server:
        energy, said = run(deployed("rig1", server.url))
    assert (energy, said) == (None, ["the energy of other hosts is not known: no host answers"])
