"""The report of the builds: the real notebook over deployments of four kinds of hosts, looked at in a browser."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks import report
from tests import browser
from tests.deployment_records import NOON, host, instance, lost, release, write
from tests.report_pages import joined_words

DAY = timedelta(days=1)
OLD, NEW, MANY, ARM = (
    "b11401-cuda89-77aa00ff", "b11434-cuda89-1f3a90c2", "b11434-cuda80-86-89-90-120-5d0c77e1", "b11434-cpu-3f522e40"
)  # fmt: skip
BROKEN = f"release {NEW}, built on rig, does not run here: have it built on a host with an <older> system"
EDGE: dict[str, Any] = {
    "backend": "cpu",
    "machine": "aarch64",
    "cuda_architectures": [],
    "cuda_toolkit": None,
    "fa_quants": [],
    "cpu": "6a93d771",
    "cmake_options": {"GGML_CPU_ARM_ARCH": "armv8.2-a+dotprod"},
    "ccache": None,
    "built_on": "edge-arm",
    "build_seconds": 2210.0,
    "size": 41 << 20,
}
RACK: dict[str, Any] = {
    "cuda_architectures": ["80", "86", "89", "90", "120"],
    "cuda_toolkit": "13.0",
    "fa_quants": ["all"],
    "cpu": "1b7c22d0",
    "web_page": "prebuilt",
    "build_seconds": 5210.0,
    "ccache": {"hits": 2100, "misses": 377},
    "size": 1900 << 20,
}


def serving(name: str, served: str) -> dict[str, Any]:
    return host(name, instance(release=served))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hosts that take what another builds, one of which can't any more, and two that build their own."""
    root = tmp_path_factory.mktemp("builds")
    records, gpus = root / "results", ("gpu-01", "gpu-02", "gpu-03")
    slow: dict[str, Any] = {"at": NOON, "ccache": {"hits": 0, "misses": 820}, "build_seconds": 4310.0}
    edge = [release(ARM, "edge-arm", "built", **EDGE)]
    write(records, NOON, *(serving(name, OLD) for name in gpus), serving("edge-arm", ARM), releases=[
        *(release(OLD, name, "taken", **slow) for name in gpus), *edge
    ])  # fmt: skip
    write(records, NOON + DAY, serving("gpu-01", NEW), releases=[release(NEW, "gpu-01", "planned")], check=True)
    taken: dict[str, Any] = {"at": NOON + DAY, "releases": [NEW, OLD], "removed": ["b11100-cuda89-0badcafe"]}
    write(records, NOON + DAY, serving("gpu-01", NEW), serving("gpu-02", NEW), lost("gpu-03", BROKEN), releases=[
        release(NEW, "gpu-01", "taken", **taken), release(NEW, "gpu-02", "taken", **taken),
        release(NEW, "gpu-03", "failed", releases=[OLD], error=BROKEN),
    ])  # fmt: skip
    rack = "rack-with-a-long-name-07.example.org"
    write(
        records, NOON + 3 * DAY, serving(rack, MANY), releases=[release(MANY, rack, "built", at=NOON + 3 * DAY, **RACK)]
    )
    assert report.main(["--results", str(records), "--reports", str(root / "reports")]) == 0
    return root


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    return folder / "reports" / "builds" / "builds.html"


def test_the_page_opens_with_sentences_made_of_the_records(page: Path) -> None:
    assert (
        "<b>5 hosts run 4 releases of llama.cpp: b11434 on 4, b11401 on 1.</b> The last build was "
        f"{MANY} on rack-with-a-long-name-07.example.org (2026-11-25 12:00 UTC): 1 h 27 min, 85 % of 2,477 "
        f"compilations from the cache. gpu-03 did not get {NEW} (2026-11-23 12:00 UTC): "
    ) in joined_words(page.read_text())


def test_the_page_holds_hosts_releases_builds_space_and_failures(page: Path) -> None:
    html = joined_words(page.read_text())
    for shown in (
        "gpu-01</span>", "from rig 2026-11-23", "What failed</h2>", "with an &lt;older&gt; system",
        "Behind the others</h2>",
        "b11401 instead of b11434", "CUDA toolkit 13.0, not 12.9", "4 builds:", "779 of 820", "without a cache",
        "b11100-cuda89-0badcafe", "4 run records",
    ):  # fmt: skip
        assert shown in html, shown
    assert "Traceback" not in html


def test_the_index_leads_to_the_builds_and_their_page_back(folder: Path, page: Path) -> None:
    index = (folder / "reports" / "index.html").read_text()
    assert '<p class="note bad"><b><a href="builds/builds.html?' in index
    assert "Builds</a></b> 5 hosts run 4 releases" in index
    assert 'href="../index.html"' in page.read_text()


def test_the_page_loads_nothing_and_runs_nothing(page: Path) -> None:
    loads = browser.Loads()
    loads.feed(page.read_text())
    assert loads.found == []


@browser.needed
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_the_page_without_errors_or_requests(tmp_path: Path, page: Path, dark: bool) -> None:
    seen = browser.show(page, tmp_path, dark=dark)
    assert "CONSOLE" not in seen.stderr
    assert browser.requests(tmp_path / "net.json") == set()
    for shown in ("Which host runs which", "viewBox=", "Behind the others"):
        assert shown in seen.stdout


@browser.needed
def test_the_page_fits_a_window_of_1000_pixels(tmp_path: Path, page: Path) -> None:
    assert browser.too_wide(page, tmp_path, 1000) == ""
    # Narrower than that only tables and figures scroll, not the page.
    assert set(browser.too_wide(page, tmp_path, 500).split(", ")) == {"DIV scroll"}
