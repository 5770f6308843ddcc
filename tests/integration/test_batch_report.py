"""The report of a batch: the real notebook over a job that was interrupted and resumed, looked at in a browser."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks import batch, report
from nexus_tasks.batches import record as record_module
from nexus_tasks.records import store
from nexus_tasks.records.store import BatchRecord
from nexus_tasks.reports.pages.batch import sentences
from tests import browser
from tests.batch_runs import recorded, unequal
from tests.conftest import RunningServer
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


SCHEMA = {
    "title": "A letter",
    "type": "object",
    "properties": {"letter": {"enum": ["a", "b"]}, "why": {"type": "string", "pattern": "^$"}},
    "required": ["letter", "why"],
}


def test_a_real_batch_has_a_page_with_its_rates_causes_and_answers(tmp_path: Path, server: RunningServer) -> None:
    rows = [{"id": f"q-{number}", "prompt": f"Name letter {number}."} for number in range(10)]
    rows[7:] = [{"id": f"long-{number}", "prompt": "word " * 9000} for number in range(2)]
    schema, file = tmp_path / "schema.json", tmp_path / "rows.jsonl"
    schema.write_text(json.dumps(SCHEMA))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{not JSON\n")
    folders = ["--results", str(tmp_path / "results")]
    asked = ["--json-schema", str(schema), "--max-tokens", "40", "--seed", "1"]
    assert batch.main([str(file), server.base_url, "--jobs", str(tmp_path / "jobs"), *folders, *asked]) == 1
    [path] = store.paths("batch", tmp_path / "results")
    made = store.load(path, "batch")
    [checked] = made.schemas
    assert (checked.name, checked.checked) == ("A letter", 7)
    assert {row.kind: row.set_aside for row in made.failures if row.set_aside} == {"too_long": 2, "malformed": 1}
    assert [one.line for row in made.failures for one in row.examples] == [8, 9, 10]
    assert report.main([*folders, "--reports", str(tmp_path / "reports")]) == 0
    html_ = joined_words((tmp_path / "reports" / "batch" / f"{path.stem}.html").read_text())
    for shown in ("3 of 10 rows failed", "A letter", "Name letter ", "line 8", "<h1>rows.jsonl"):
        assert shown in html_, shown


def test_a_record_is_written_though_the_input_is_gone_at_the_end(
    tmp_path: Path, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("Hello\n")
    find = record_module.origins_in

    def gone(*told: Any) -> Any:
        file.unlink()
        return find(*told)

    monkeypatch.setattr(record_module, "origins_in", gone)
    asked = ["--max-tokens", "2", "--jobs", str(tmp_path / "jobs"), "--results", str(tmp_path)]
    assert batch.main([str(file), server.base_url, *asked]) == 0
    [path] = store.paths("batch", tmp_path)
    [answer] = store.load(path, "batch").answers
    assert (answer.line, answer.prompt) == (None, None)


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
