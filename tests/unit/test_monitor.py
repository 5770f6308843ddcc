"""What the monitor makes of two looks, and how it fits on a terminal."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from nexus_tasks import monitor
from nexus_tasks.core.errors import EndpointDown
from nexus_tasks.monitor import Fleet, Watch
from nexus_tasks.servers.scrape import Look, Machine, Server
from nexus_tasks.telemetry import sampling

GPU: dict[str, Any] = {
    "index": 0, "utilization_percent": 97, "memory_used_mib": 22528, "power_w": 311.5, "power_limit_w": 350.0,
    "energy_j": None, "temperature_c": 64, "clock_mhz": 1410, "throttled": ["sw_power_cap"],
}  # fmt: skip
KNOWN: dict[str, Any] = {
    "index": 0, "name": "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "driver": "580.65.06",
    "memory_total_mib": 97887, "clock_max_mhz": 1980,
}  # fmt: skip


class Silent:
    """Nobody looks there."""

    def look(self) -> Look:
        return Look(0, problem="silent")


def watch(name: str, *looks: Look, host: str = "rig-1") -> Watch:
    made = Watch(host, name, lambda: contextlib.nullcontext((Silent(), False)))
    for look in looks:
        made.keep(look)
    return made


def servers(before: Server, now: Server) -> Watch:
    return watch("rig-1/main", Look(10.0, server=before), Look(12.0, server=now))


def drawn(fleet: Fleet, width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(monitor.picture(fleet))
    return stream.getvalue()


def test_rates_are_what_the_counters_grew_by_in_a_second() -> None:
    before = Server(1, 4, 0, prompt_tokens_total=100, predicted_tokens_total=1000)
    row = monitor.instance_row(servers(before, Server(3, 4, 2, 300, 1250, 77)))
    assert (row["prompt_tps"], row["decode_tps"], row["rates_are_lower_bounds"]) == (100.0, 125.0, False)
    assert (row["slots_busy"], row["slots"], row["waiting"], row["cached_tokens"]) == (3, 4, 2, 77)


def test_a_server_that_was_started_again_has_no_rate_for_a_moment() -> None:
    before = Server(1, 4, 0, prompt_tokens_total=100, predicted_tokens_total=1000)
    row = monitor.instance_row(servers(before, Server(0, 4, 0, 0, 0)))
    assert (row["up"], row["prompt_tps"], row["decode_tps"]) == (True, None, None)


def test_without_counters_rates_are_of_the_requests_in_the_slots_and_say_so() -> None:
    before = Server(2, 2, tasks={(0, 5): (10, 40), (1, 6): (10, 400)})
    fleet = Fleet([servers(before, Server(2, 2, tasks={(0, 5): (10, 60), (1, 7): (8, 2)}))], [])
    row = monitor.instance_row(fleet.instances[0])
    assert (row["prompt_tps"], row["decode_tps"], row["rates_are_lower_bounds"]) == (4.0, 11.0, True)
    assert "≥11.0" in drawn(fleet)
    assert "metrics: true gives the server counters" in drawn(fleet)


def test_after_a_gap_there_is_no_rate_over_it() -> None:
    server = Server(0, 1, 0, 5, 5)
    row = monitor.instance_row(watch("main", Look(1, server=server), Look(2, problem="gone"), Look(3, server=server)))
    assert (row["up"], row["decode_tps"]) == (True, None)


def test_one_that_was_not_heard_of_for_too_long_is_down() -> None:
    heard, silent = watch("rig-1/main"), watch("rig-1/hangs")
    heard.keep(Look(1, server=Server(1, 4)), time.monotonic() + 60)
    silent.keep(Look(1, server=Server(1, 4)), time.monotonic() - 5)
    host = watch("rig-1")
    host.keep(Look(1, machine=Machine(1, 1, 1, 1, [GPU], [KNOWN], None)), time.monotonic() - 5)
    assert monitor.instance_row(heard)["up"]
    assert monitor.instance_row(silent)["problem"] == "has not answered for 15 s"
    assert (monitor.host_row(host)["up"], monitor.host_row(host)["gpus"]) == (False, [])
    assert "2 instances, 1 down: rig-1/hangs" in drawn(Fleet([heard, silent], [host]))


def test_each_look_has_its_time_and_one_that_takes_longer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "LATE_S", 0.0)
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
    problem = monitor.instance_row(one)["problem"]
    stop.set()
    thread.join()
    assert str(problem).startswith("has not answered for ")


@pytest.mark.parametrize(
    ("error", "shown"), [("GPU 1 does not answer", True), (sampling.NO_LIBRARY, False), (None, False)]
)
def test_why_gpus_are_missing_stands_below_unless_there_is_no_driver(error: str | None, shown: bool) -> None:
    host = watch("rig-1", Look(1, machine=Machine(1, 1, 1, 1, [], [], None, error)))
    assert (f"GPUs of rig-1: {error}" in drawn(Fleet([], [host]))) is shown
    assert monitor.host_row(host)["nvml_error"] == error


def test_an_instance_that_is_down_says_why_below_and_first_of_all() -> None:
    fleet = Fleet([watch("rig-1/main", Look(1, problem="connection refused")), watch("rig-1/new")], [])
    lines = drawn(fleet).splitlines()
    assert lines[0].endswith("2 instances, 1 down: rig-1/main")
    assert next(line for line in lines if line.startswith("rig-1/main ")).split() == ["rig-1/main", "DOWN"]
    assert "rig-1/main: connection refused" in lines
    assert next(line for line in lines if line.startswith("rig-1/new ")).split() == ["rig-1/new", "..."]


def test_a_host_has_a_row_of_its_own_and_one_for_each_gpu() -> None:
    machines = [Machine(busy, 10.0, 32768, 131072, [GPU], [KNOWN], None) for busy in (10.0, 13.0)]
    machines[1] = Machine(13.0, 11.0, 32768, 131072, [GPU], [KNOWN], None)
    host = watch("rig-1", *(Look(float(n), machine=machine) for n, machine in enumerate(machines)))
    row = monitor.host_row(host)
    assert (row["cpu_percent"], row["memory_used_mib"], row["gpus"]) == (75.0, 32768, [{**KNOWN, **GPU}])
    text = drawn(Fleet([], [host]), 120)
    assert "processor  " in text
    assert "75 %    32.0/128" in text
    assert "97 %     22.0/96  64  312/350  sw_power_cap" in text


def test_what_a_gpu_does_not_tell_is_a_dash() -> None:
    nothing = {"index": 1, "throttled": None, **dict.fromkeys(GPU.keys() - {"index", "throttled"})}
    host = watch("rig-1", Look(1, machine=Machine(1, 1, 1, 1, [nothing], [], None)))
    line = next(line for line in drawn(Fleet([], [host])).splitlines() if "1 GPU" in line)
    assert line.split() == ["1", "GPU", "-", "-", "-", "-"]


def test_everything_fits_into_eighty_columns() -> None:
    long = "a-machine-with-a-long-name.example.org"
    busy = [Server(128, 128, 4096, 10**9, 10**9, 98_000_000), Server(128, 128, 4096, 2 * 10**9, 2 * 10**9, 98_000_000)]
    machine = Machine(10.0, 10.0, 2_000_000, 2_097_152, [GPU] * 8, [KNOWN], None)
    fleet = Fleet(
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
        Fleet([], [], ["rig-1", "rig-2"]), 120
    )


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


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (0.04, "0.0"), (99.96, "100.0"), (100.4, "100"), (9999, "9999"), (12345, "12.3k"),
     (1_234_567, "1.2M")],
)  # fmt: skip
def test_numbers_stay_short(value: float | None, text: str) -> None:
    assert monitor._number(value) == text
