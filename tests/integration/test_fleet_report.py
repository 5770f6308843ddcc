"""The report of the fleet: the real notebook over a history of deployments, looked at in a browser."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks import report
from tests import browser, report_records
from tests.deployment_records import NOON, host, instance, lost, restored, write

DAY = timedelta(days=1)
OLD: dict[str, Any] = {"release": "b11201-cuda-89-77aa00ff", "build": "b11201-9f1e2d3c4"}
LARGE: dict[str, Any] = {
    "model": {"name": "qwen3-235b-a22b-q4-k-m", "sha256": "ee" * 32},
    "n_ctx": 131072,
    "offloaded": [95, 95],
    "buffers_mib": {f"CUDA{n}": {"model": 61000.0, "kv": 6000.0, "compute": 900.0} for n in range(2)},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten deployments to three hosts, one of which went back; their report, and that of a benchmark run."""
    root = tmp_path_factory.mktemp("fleet")
    records = root / "results"
    main = [host("gpu-01", instance(**OLD), instance("embedding", **OLD)), host("gpu-02", instance(**{**OLD, **LARGE}))]
    arm = host("edge-arm", instance(runtime="supervisor", offloaded=None, tokens_per_second=34.2))
    write(records, NOON, *main, arm)
    write(records, NOON + DAY, host("gpu-01", instance(changed=False), changed=0), limit="gpu-01")
    write(records, NOON + 2 * DAY, host("gpu-01", instance(state="planned"), changed=2), limit="gpu-01", check=True)
    write(records, NOON + 3 * DAY, host("gpu-01", instance(), instance("embedding")), limit="gpu-01")
    write(records, NOON + 4 * DAY, lost("gpu-02"), limit="gpu-02")
    write(records, NOON + 5 * DAY, host("gpu-02", instance(**LARGE)), limit="gpu-02")
    write(records, NOON + 6 * DAY, *main[:1], lost("edge-arm", "No route to <host>", unreachable=True))
    write(records, NOON + 7 * DAY, host("gpu-01", instance(state="planned")), limit="gpu-01", finished=False)
    write(records, NOON + 8 * DAY, main[0], host("gpu-02", restored(before=instance(**LARGE), **LARGE)), arm)
    write(records, NOON + 9 * DAY, host("gpu-01", instance(tokens_per_second=214.5)), playbook="rollback.yml")
    report_records.write(records)
    assert report.main(["--results", str(records), "--reports", str(root / "reports")]) == 0
    return root


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    return folder / "reports" / "fleet" / "fleet.html"


def test_the_page_opens_with_three_sentences_made_of_the_records(page: Path) -> None:
    assert (
        "<b>The fleet has 3 hosts with 4 instances.</b> 3 of 4 instances verified, 1 restored. Not as it should be: "
        "gpu-02/main serves what it served before (2026-11-30 12:00 UTC): main is slower than declared.</p>"
    ) in page.read_text()


def test_the_page_holds_the_instances_the_proof_the_history_and_the_deployments(page: Path) -> None:
    html = page.read_text()
    for shown in (
        "gpu-01/<wbr/>embedding", "Not as it should be</h2>", "layers were left on the processor",
        "9 deployments to 3 hosts:", "gpu-02/main, tokens/s</text>", "edge-arm: No route to &lt;host&gt;",
        "check: 1 host would change", "10 run records",
    ):  # fmt: skip
        assert shown in html, shown
    assert "Traceback" not in html


def test_the_index_leads_to_the_fleet_and_its_page_back(folder: Path, page: Path) -> None:
    index = (folder / "reports" / "index.html").read_text()
    assert index.index('href="fleet/fleet.html?') < index.index('href="benchmark/')
    assert 'href="../index.html"' in page.read_text()
    assert not (folder / "reports" / "deployment").exists()


def test_the_page_is_rendered_again_when_a_deployment_was_added_and_only_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "results")
    arguments = ["--results", str(tmp_path / "results"), "--reports", str(tmp_path / "reports")]
    assert report.main(arguments) == 0
    assert "2 reports: 2 rendered" in capsys.readouterr().out
    first = (tmp_path / "reports" / "fleet" / "fleet.html").read_text()
    assert report.main(arguments) == 0
    assert "2 reports: 0 rendered, 2 up to date already" in capsys.readouterr().out
    added = write(tmp_path / "results", NOON + DAY, host("gpu-09", instance()))
    assert report.main(arguments) == 0
    assert "2 reports: 2 rendered" in capsys.readouterr().out
    assert "gpu-09/<wbr/>main" in (tmp_path / "reports" / "fleet" / "fleet.html").read_text()
    # The same records make the same page.
    added.unlink()
    assert report.main(arguments) == 0
    assert (tmp_path / "reports" / "fleet" / "fleet.html").read_text() == first


def test_the_page_loads_nothing_and_runs_nothing(folder: Path) -> None:
    for path in (folder / "reports").rglob("*.html"):
        loads = browser.Loads()
        loads.feed(path.read_text())
        # The index asks whether there is a newer one of it.
        assert loads.found == (["script"] if path.name == "index.html" else []), path.name


@browser.needed
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_the_page_without_errors_or_requests(tmp_path: Path, page: Path, dark: bool) -> None:
    seen = browser.show(page, tmp_path, dark=dark)
    assert "CONSOLE" not in seen.stderr
    assert browser.requests(tmp_path / "net.json") == set()
    for shown in ("Not as it should be", "viewBox=", "<clipPath"):
        assert shown in seen.stdout


@browser.needed
def test_the_pages_fit_a_window_of_1000_pixels(tmp_path: Path, folder: Path, page: Path) -> None:
    assert browser.too_wide(page, tmp_path, 1000) == ""
    assert browser.too_wide(folder / "reports" / "index.html", tmp_path, 1000) == ""
    # The check can tell: tables scroll in a narrow window.
    assert "scroll" in browser.too_wide(page, tmp_path, 500)
