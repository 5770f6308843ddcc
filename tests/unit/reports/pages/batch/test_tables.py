"""Tables of a batch's page."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import msgspec
import pytest

from nexus_tasks.batches.asking import Asking
from nexus_tasks.core.text import SPACE
from nexus_tasks.records.batch_rows import JobEnergy
from nexus_tasks.records.store import BatchRecord
from nexus_tasks.reports.pages.batch import tables
from tests.batch_runs import Run, Server, recorded, unequal

RIG = "rig/main"
KNOWN = JobEnergy(joules=4200.0, joules_per_token=0.35, source="rig-1", at_least=False)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> BatchRecord:
    return recorded(tmp_path_factory.mktemp("batch"), unequal().entries, 400)


def cells(html: str) -> list[str]:
    """The texts of a table's cells."""
    return [re.sub(r"<[^>]*>", " ", cell).split("\n")[0].strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", html)]


def test_failures_show_their_cause_the_lines_and_what_was_said(record: BatchRecord) -> None:
    html = tables.failures(record).html
    assert "13 rows were given up." in html
    assert "line 8 · q-7, line 69 · q-68" in html  # they met the same
    assert "&lt;b&gt;cannot decode&lt;/b&gt;" in html
    assert html.count("line 6 ") == 1  # the message names it already
    assert "<code>disconnected</code>" in html


def test_nothing_failed_and_there_is_no_section(tmp_path: Path) -> None:
    run = Run({RIG: Server()})
    run.work(range(3))
    assert tables.failures(recorded(tmp_path, run.entries, 3)).html == ""


def test_who_answered_which_rows(record: BatchRecord) -> None:
    told = cells(tables.servers(record).html)
    assert told[:3] == ["gpu-01/main", "qwen3-8b-q4-k-m", "b11434-0c1e57098"]
    assert "b11501-7f00d1e22" in told
    assert "1 to 400" in told


def test_endpoints_show_the_share_of_their_slots_that_worked(record: BatchRecord) -> None:
    assert cells(tables.endpoints(record).html)[:3] == ["gpu-01/main", "4", f"100.0{SPACE}%"]


def test_sessions_are_listed_where_there_was_more_than_one(record: BatchRecord, tmp_path: Path) -> None:
    assert cells(tables.sessions(record).html) == [
        "2026-11-22 12:00:00", "30 s", "interrupted", "2026-11-22 14:00:29", "39 s", "complete",
    ]  # fmt: skip
    run = Run({RIG: Server()})
    left = run.work(range(30), seconds=2.0, ended=None)
    run.work(left)
    assert "killed, or the machine went down" in tables.sessions(recorded(tmp_path, run.entries, 30)).html


def test_what_was_asked_is_listed(tmp_path: Path) -> None:
    asking = Asking(system="Be <brief>.", parameters={"max_tokens": 200, "json_schema": {"type": "object"}})
    html = tables.asked(recorded(tmp_path, [], 3, asking=asking)).html
    for shown in ("<dt>Max tokens</dt><dd>200</dd>", "Be &lt;brief&gt;.", "{&#34;type&#34;: &#34;object&#34;}"):
        assert shown in html
    assert f"<dt>Token</dt><dd>300{SPACE}s</dd>" in html
    assert "Seed" not in html


def test_the_top_has_the_main_numbers(record: BatchRecord) -> None:
    html = tables.head(record).html
    for shown in ("<h1>prompts.jsonl <span>put to qwen3-8b-q4-k-m</span></h1>", ">387 <small>of 400</small>",
                  ">80.3 <small>%</small>", "400 rows, max tokens 200, temperature 0.7, on gpu-hosts"):  # fmt: skip
        assert shown in html, shown


@pytest.mark.parametrize(
    ("energy", "shown"),
    [
        (None, None),
        (KNOWN, f"4,200{SPACE}J in all, of rig-1"),
        (msgspec.structs.replace(KNOWN, joules_per_token=None, at_least=True), "at least, of rig-1"),
    ],
    ids=["unknown", "known", "a lower bound"],
)
def test_energy_is_a_tile_where_it_is_known(record: BatchRecord, energy: JobEnergy | None, shown: str | None) -> None:
    assert record.summary
    summary = msgspec.structs.replace(record.summary, energy=energy)
    html = tables.head(dataclasses.replace(record, summary=summary)).html
    assert ("Energy" in html) is (energy is not None)
    assert shown is None or shown in html
