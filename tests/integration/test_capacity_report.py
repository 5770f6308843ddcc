"""The report of the fleet's memory: the real notebook over a plan and a deployment, looked at in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_tasks import report
from nexus_tasks.records.benchmark_rows import Part
from tests import browser
from tests.deployment_records import NOON, host, instance, write
from tests.plan_records import card, curve, machine, model, own, plan, server, write_record

LONG = "rack-with-a-long-name-07.example.org"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hosts of different kinds, one of them with two servers that do not fit together, and a deployment."""
    root = tmp_path_factory.mktemp("capacity")
    rows: list[Part] = [
        machine("rig-1", [24576, 16384], "declared", None),
        machine(LONG, [16384], "asked", None, 65536),
    ]
    rows += [model(0), model(1, "another-model-with-a-long-name-30b-a3b-instruct"), curve(0), curve(1, 1, kv_mib=900)]
    rows += [plan(0, [card("CUDA0", 7000, 1500, 324), card("CUDA1", 3700, 1500, 324), own(380, 24)])]
    rows += [plan(1, [card("CUDA0", 10700, 3000, 324), own(380, 24)], of=1)]
    rows += [server("rig-1", "main", 0, "fits", (0, 1)), server(LONG, "one", 1, "does not fit")]
    rows += [
        server(LONG, "two", 1, "does not fit"),
        server(LONG, "odd", None, "unknown", problem="--lora is not covered"),
    ]
    write_record(root / "results", rows, "1-a")
    write(root / "results", NOON, host("rig-1", instance()))
    assert report.main(["plan", "--results", str(root / "results"), "--reports", str(root / "reports")]) == 0
    return root / "reports"


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    return folder / "capacity" / "capacity.html"


def test_the_page_opens_with_what_fits_and_the_index_leads_to_it(folder: Path, page: Path) -> None:
    html = page.read_text()
    assert "<b>The plan of 2 hosts has 4 models: 1 fits, 2 do not fit, 1 can't be told.</b>" in html.replace(
        "&#39;", "'"
    )
    assert "Traceback" not in html
    assert '<b><a href="capacity/capacity.html?' in (folder / "index.html").read_text()
    loads = browser.Loads()
    loads.feed(html)
    assert loads.found == []


@browser.needed
def test_a_browser_shows_the_page_without_errors_or_requests(tmp_path: Path, page: Path) -> None:
    seen = browser.show(page, tmp_path)
    assert "CONSOLE" not in seen.stderr
    assert browser.requests(tmp_path / "net.json") == set()
    for shown in ("Memory by part", "viewBox=", "Plan against measurement", "--lora is not covered"):
        assert shown in seen.stdout
    assert browser.too_wide(page, tmp_path, 1000) == ""
