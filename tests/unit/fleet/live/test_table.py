"""How what is watched fits on a terminal, and what stands in it."""

from __future__ import annotations

import time

import pytest

from nexus_tasks.fleet.live import rows, table
from nexus_tasks.fleet.live.watching import WatchedFleet
from nexus_tasks.servers.scrape import Look, Machine, Server
from nexus_tasks.telemetry import sampling
from tests.live_fleet import GPU, KNOWN, drawn, servers, watch


def test_without_counters_rates_are_of_the_requests_in_the_slots_and_say_so() -> None:
    before = Server(2, 2, tasks={(0, 5): (10, 40), (1, 6): (10, 400)})
    fleet = WatchedFleet([servers(before, Server(2, 2, tasks={(0, 5): (10, 60), (1, 7): (8, 2)}))], [])
    row = rows.instance_row(fleet.instances[0])
    assert (row["prompt_tps"], row["decode_tps"], row["rates_are_lower_bounds"]) == (4.0, 11.0, True)
    assert "≥11.0" in drawn(fleet)
    assert "metrics: true gives the server counters" in drawn(fleet)


def test_one_that_was_not_heard_of_for_too_long_is_down() -> None:
    heard, silent = watch("rig-1/main"), watch("rig-1/hangs")
    heard.keep(Look(1, server=Server(1, 4)), time.monotonic() + 60)
    silent.keep(Look(1, server=Server(1, 4)), time.monotonic() - 5)
    host = watch("rig-1")
    host.keep(Look(1, machine=Machine(1, 1, 1, 1, [GPU], [KNOWN], None)), time.monotonic() - 5)
    assert rows.instance_row(heard)["up"]
    assert rows.instance_row(silent)["problem"] == "has not answered for 15 s"
    assert (rows.host_row(host)["up"], rows.host_row(host)["gpus"]) == (False, [])
    assert "2 instances, 1 down: rig-1/hangs" in drawn(WatchedFleet([heard, silent], [host]))


@pytest.mark.parametrize(
    ("error", "shown"), [("GPU 1 does not answer", True), (sampling.NO_LIBRARY, False), (None, False)]
)
def test_why_gpus_are_missing_stands_below_unless_there_is_no_driver(error: str | None, shown: bool) -> None:
    host = watch("rig-1", Look(1, machine=Machine(1, 1, 1, 1, [], [], None, error)))
    assert (f"GPUs of rig-1: {error}" in drawn(WatchedFleet([], [host]))) is shown
    assert rows.host_row(host)["nvml_error"] == error


def test_an_instance_that_is_down_says_why_below_and_first_of_all() -> None:
    fleet = WatchedFleet([watch("rig-1/main", Look(1, problem="connection refused")), watch("rig-1/new")], [])
    lines = drawn(fleet).splitlines()
    assert lines[0].endswith("2 instances, 1 down: rig-1/main")
    assert next(line for line in lines if line.startswith("rig-1/main ")).split() == ["rig-1/main", "DOWN"]
    assert "rig-1/main: connection refused" in lines
    assert next(line for line in lines if line.startswith("rig-1/new ")).split() == ["rig-1/new", "..."]


def test_a_host_has_a_row_of_its_own_and_one_for_each_gpu() -> None:
    machines = [Machine(busy, 10.0, 32768, 131072, [GPU], [KNOWN], None) for busy in (10.0, 13.0)]
    machines[1] = Machine(13.0, 11.0, 32768, 131072, [GPU], [KNOWN], None)
    host = watch("rig-1", *(Look(float(n), machine=machine) for n, machine in enumerate(machines)))
    row = rows.host_row(host)
    assert (row["cpu_percent"], row["memory_used_mib"], row["gpus"]) == (75.0, 32768, [{**KNOWN, **GPU}])
    text = drawn(WatchedFleet([], [host]), 120)
    assert "processor  " in text
    assert "75 %    32.0/128" in text
    assert "97 %     22.0/96  64  312/350  sw_power_cap" in text


def test_what_a_gpu_does_not_tell_is_a_dash() -> None:
    nothing = {"index": 1, "throttled": None, **dict.fromkeys(GPU.keys() - {"index", "throttled"})}
    host = watch("rig-1", Look(1, machine=Machine(1, 1, 1, 1, [nothing], [], None)))
    line = next(line for line in drawn(WatchedFleet([], [host])).splitlines() if "1 GPU" in line)
    assert line.split() == ["1", "GPU", "-", "-", "-", "-"]


def test_everything_fits_into_eighty_columns() -> None:
    long = "a-machine-with-a-long-name.example.org"
    busy = [Server(128, 128, 4096, 10**9, 10**9, 98_000_000), Server(128, 128, 4096, 2 * 10**9, 2 * 10**9, 98_000_000)]
    machine = Machine(10.0, 10.0, 2_000_000, 2_097_152, [GPU] * 8, [KNOWN], None)
    fleet = WatchedFleet(
        [watch(f"{long}/main", *(Look(float(n), server=server) for n, server in enumerate(busy))),
         watch(f"{long}/second", Look(1, problem=f"no ssh tunnel to {long}: Connection timed out " * 2))],
        [watch(long, Look(1, machine=machine), Look(2, machine=machine)), watch("down", Look(1, problem="no route"))],
        [long] * 3,
    )  # fmt: skip
    lines = drawn(fleet).splitlines()
    assert max(map(len, lines)) <= 80
    numbers = next(line for line in lines if "128/128" in line)
    assert numbers.split()[1:] == ["128/128", "4096", "1000.0M", "1000.0M", "98.0M"]
    assert sum("97 %" in line and "312/350" in line for line in lines) == 8


def test_who_has_no_exporter_is_told_what_to_set() -> None:
    assert "rig-1, rig-2: no exporter, so no row for its GPUs: set telemetry_exporter" in drawn(
        WatchedFleet([], [], ["rig-1", "rig-2"]), 120
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (0.04, "0.0"), (99.96, "100.0"), (100.4, "100"), (9999, "9999"), (12345, "12.3k"),
     (1_234_567, "1.2M")],
)  # fmt: skip
def test_numbers_stay_short(value: float | None, text: str) -> None:
    assert table._number(value) == text
