"""Figures of the capacity page."""

from __future__ import annotations

from pathlib import Path

from nexus_tasks.fleet import capacity
from nexus_tasks.records.benchmark_rows import Part
from nexus_tasks.reports.pages.capacity import figures
from tests.plan_records import card, curve, machine, model, own, plan, server, write_record
from tests.report_pages import check_ids


def test_the_fullest_device_comes_first_and_others_are_counted(tmp_path: Path) -> None:
    rows: list[Part] = [
        machine("large", [81920], "declared", None),
        machine("small", [16384], "declared", None, memory_mib=2048),
    ]
    rows += [model(0), curve(0), plan(0, [card("CUDA0", 10000, 3018, 324), own(380, 24)])]
    rows += [server("large", "main", 0, "fits"), server("small", "main", 0, "tight")]
    write_record(tmp_path, rows, "1-a")
    html = figures.by_part(capacity.read(tmp_path), 2).html
    label = "2 devices, the fullest first: small, GPU 0 13.6 GiB of 16.0 GiB, small, memory 1,004 MiB of 2.00 GiB."
    assert label in html.replace("\N{NO-BREAK SPACE}", " ")
    assert "1 that are less full are not drawn" in html
    assert "No plan" not in html
    check_ids(html)


def test_curves_have_the_sizes_of_the_gpus_and_the_options(tmp_path: Path) -> None:
    rows = [
        machine("rig", [24576, 16384], "declared", None),
        model(0),
        model(1, "other"),
        curve(0),
        curve(1, 1, kv_mib=900),
    ]
    write_record(tmp_path, rows, "1-a")
    html = figures.curves(capacity.read(tmp_path)).html.replace("\N{NO-BREAK SPACE}", " ")
    for shown in (
        "24.0 GiB GPU",
        "16.0 GiB GPU",
        "gpt-oss-20b -np 4",
        "GiB from the smallest context",
        "other 12.0 to",
    ):
        assert shown in html, shown
    check_ids(html)


def test_without_anything_to_draw_a_sentence_says_so(tmp_path: Path) -> None:
    write_record(tmp_path, [], "1-a")
    empty = capacity.read(tmp_path)
    assert "No plan is of a host" in figures.by_part(empty, 30).html
    assert "No plan has a curve" in figures.curves(empty).html
