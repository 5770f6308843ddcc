"""The energy that GPUs of hosts take while something works, from exporters that are asked."""

from __future__ import annotations

import threading
import time

import pytest

from nexus_tasks.fleet.energy_meter import Meter
from nexus_tasks.fleet.exporters import Exporter
from nexus_tasks.records.benchmark_rows import GpuState
from nexus_tasks.stats.energy import GAP_S
from nexus_tasks.telemetry import sampling
from tests.conftest import free_port, wait_for
from tests.support.fake_exporter import POWER_W, FakeExporter


def test_the_energy_is_that_of_the_time_from_begin_to_stop() -> None:
    with FakeExporter() as fake, Meter(local=False, exporters=[Exporter("rig-1", fake.address)]) as meter:
        begun = time.perf_counter()
        wait_for(lambda: fake.asked >= 3, "three looks")
        least_s = time.perf_counter() - begun
        taken = meter.stop()
        most_s = time.perf_counter() - begun + 0.5
    assert taken
    assert (taken.sources, taken.at_least) == (("rig-1",), False)
    assert POWER_W * least_s * 0.99 <= taken.joules <= POWER_W * most_s
    assert meter.stop() == taken
    assert not [thread for thread in threading.enumerate() if thread.name == "energy"]


class OneGpu(sampling.Gpus):
    """A GPU of this machine that takes 100 W."""

    def __enter__(self) -> OneGpu:
        self.inventory = [sampling.Gpu(0, "Test GPU", "580", None)]
        return self

    def read(self) -> list[sampling.Row]:
        unknown = dict.fromkeys(GpuState.__struct_fields__)
        return [{**unknown, "index": 0, "power_w": POWER_W}] if self.inventory else []


def test_gpus_of_this_machine_count_where_servers_run_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "Gpus", OneGpu)
    with Meter(local=True, exporters=[]) as meter:  # shorter than an interval
        here = meter.stop()
    with FakeExporter() as fake, Meter(local=False, exporters=[Exporter("rig-1", fake.address)]) as other:
        there = other.stop()
    assert here
    assert there
    assert (here.sources, there.sources) == ((sampling.CLIENT,), ("rig-1",))


def test_a_work_that_is_shorter_than_an_interval_has_its_energy_too() -> None:
    with FakeExporter() as fake, Meter(local=False, exporters=[Exporter("rig-1", fake.address)]) as meter:
        taken = meter.stop()
    assert taken
    assert not taken.at_least


def test_servers_that_nobody_meters_make_the_sum_a_lower_bound() -> None:
    with FakeExporter() as fake:
        exporters = [Exporter("rig-1", fake.address), Exporter("rig-2", f"127.0.0.1:{free_port()}")]
        with Meter(local=False, exporters=exporters) as meter:
            silent = meter.stop()
        with Meter(local=False, exporters=exporters[:1], is_partial=True) as partial:
            others = partial.stop()
    assert list(meter.problems) == ["rig-2"]
    assert silent
    assert others
    assert (silent.sources, silent.at_least, others.at_least) == (("rig-1",), True, True)


def test_without_gpus_nothing_is_sampled_and_nothing_is_told() -> None:
    with FakeExporter(gpus=0) as fake:
        with Meter(local=False, exporters=[Exporter("rig-1", fake.address)]) as meter:
            assert not [thread for thread in threading.enumerate() if thread.name.startswith(("energy", "telemetry"))]
            assert meter.stop() is None
        assert fake.asked == 1
    with Meter(local=False, exporters=[]) as nothing:
        assert nothing.stop() is None


def test_an_exporter_that_falls_silent_is_named_and_what_came_before_counts() -> None:
    with FakeExporter() as lives:
        with FakeExporter() as dies:
            both = [Exporter("rig-1", lives.address), Exporter("rig-2", dies.address)]
            meter = Meter(local=False, exporters=both)
            meter.__enter__()
        begun = time.perf_counter()
        wait_for(lambda: time.perf_counter() - begun > GAP_S + 1, "a gap", 60)
        taken = meter.stop()
        meter.__exit__(None, None, None)
    assert meter.gaps == ["rig-2"]
    assert taken
    assert taken.at_least
