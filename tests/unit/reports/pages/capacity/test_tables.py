"""Tables of the capacity page."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_tasks.fleet import capacity
from nexus_tasks.fleet.capacity import Capacity
from nexus_tasks.records.benchmark_rows import Part
from nexus_tasks.reports.pages.capacity import tables
from tests.deployment_records import NOON, host, instance, write
from tests.plan_records import card, curve, machine, model, own, plan, server, write_record
from tests.report_pages import joined_words

LOGGED = {
    "CUDA0": {"model": 10000.0, "kv": 3018.0, "compute": 900.0},
    "CPU_Mapped": {"model": 380.0, "kv": None, "compute": 24.0},
}


@pytest.fixture
def state(tmp_path: Path) -> Capacity:
    """Five hosts of which four are alike, and one that serves what does not fit and what can't be planned."""
    rows: list[Part] = [machine(f"rig-{number}", [24576], "declared", None) for number in range(4)]
    rows += [machine("old", [8192], "asked", None)]
    served = [server(f"rig-{number}", "main", 0, "fits") for number in range(4)]
    served += [
        server("old", "main", 0, "does not fit"),
        server("old", "odd", None, "unknown", problem="--lora is not covered"),
    ]
    made = [model(0), curve(0), plan(0, [card("CUDA0", 10000, 3018, 324.5), own(380, 24)])]
    write_record(tmp_path, [*rows, *made, *served], "1-a")
    write(tmp_path, NOON, host("rig-0", instance(buffers_mib=LOGGED)))
    return capacity.read(tmp_path)


def test_the_top_has_the_verdict_and_the_numbers(state: Capacity) -> None:
    html = joined_words(tables.head(state).html)
    for shown in (
        "does not fit</span>",
        "of 5 hosts",
        "104\N{NO-BREAK SPACE}GiB",
        "1 do not fit",
        "memory asked and declared",
    ):
        assert shown in html, shown


def test_hosts_that_are_alike_share_rows(state: Capacity) -> None:
    html = joined_words(tables.servers(state).html)
    assert "rig-0, rig-1, rig-2 and 1 more" in html
    assert html.count("rig-") == 3
    for shown in ("does not fit", "--lora is not covered", "4 slots", "13.6\N{NO-BREAK SPACE}GiB of GPU 0"):
        assert shown in html, shown


def test_models_are_told_with_bits_and_the_context_that_each_gpu_has_room_for(state: Capacity) -> None:
    html = joined_words(tables.quantisations(state).html)
    for shown in ("MXFP4", "mxfp4 91", "4.39", ">131,072<", ">none<"):
        assert shown in html, shown


def test_a_large_difference_is_set_apart(state: Capacity) -> None:
    html = tables.measured(state).html
    assert "+575.50" in html
    assert html.count('class="number bad') == 1
    assert "+0.00" in html


def test_empty_tables_say_why(tmp_path: Path) -> None:
    write_record(tmp_path, [], "1-a")
    empty = capacity.read(tmp_path)
    assert "No plan of hosts is on record" in tables.servers(empty).html
    assert "No plan tells of a model" in tables.quantisations(empty).html
    assert "No server of a plan has been deployed" in tables.measured(empty).html
    assert "1 run record in" in tables.footer(empty).html
