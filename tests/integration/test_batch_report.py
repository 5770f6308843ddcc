"""The report of a batch: the real notebook over a job that was interrupted and resumed, looked at in a browser."""

from __future__ import annotations

import html
from pathlib import Path

import pytest

from nexus_tasks import report
from nexus_tasks.records.store import BatchRecord
from nexus_tasks.reports.pages.batch import sentences
from tests import browser
from tests.batch_runs import recorded, unequal
from tests.report_pages import joined_words


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("batch")


@pytest.fixture(scope="module")
def record(folder: Path) -> BatchRecord:
    return recorded(folder, unequal().entries, 400)


@pytest.fixture(scope="module")
def page(folder: Path, record: BatchRecord) -> Path:
    assert report.main(["--results", str(folder / "results"), "--reports", str(folder / "reports")]) == 0
    return folder / "reports" / "batch" / f"{record.path.stem}.html"


def test_the_page_opens_with_sentences_made_of_the_record(record: BatchRecord, page: Path) -> None:
    shown = html.unescape(joined_words(page.read_text()))
    first, *rest = sentences.opening(record)
    assert f"<b>{first}</b> <span>{' '.join(rest)}</span>" in shown


def test_the_page_holds_causes_work_lengths_validity_servers_and_answers(page: Path) -> None:
    made = joined_words(page.read_text())
    for shown in (
        "What failed</h2>", "&lt;b&gt;cannot decode&lt;/b&gt;", "Output tokens per second", "Whole request, ms",
        "Structured output</h2>", "74.1", "b11501-7f00d1e22", "<blockquote", "Silk was woven here",
    ):  # fmt: skip
        assert shown in made, shown
    assert "Traceback" not in made


def test_the_index_leads_to_the_job_and_its_page_back(folder: Path, record: BatchRecord, page: Path) -> None:
    index = (folder / "reports" / "index.html").read_text()
    assert f'<a href="batch/{record.path.stem}.html?' in index
    assert ">13 failed</td>" in index
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
    for shown in ("Who answered", "viewBox=", "Structured output"):
        assert shown in seen.stdout


@browser.needed
def test_the_page_fits_a_window_of_1000_pixels(tmp_path: Path, page: Path) -> None:
    assert browser.too_wide(page, tmp_path, 1000) == ""
    # Narrower than that only tables and figures scroll, not the page.
    assert set(browser.too_wide(page, tmp_path, 500).split(", ")) == {"DIV scroll"}
