"""Requests of a run, and those that failed."""

from __future__ import annotations

from pathlib import Path

from nexus_tasks.records import store
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import requests
from tests.report_records import failure, request, write

HTML_IN_A_MESSAGE = 'HTTP 500: <script>alert("x")</script> & more'


def test_what_a_server_said_is_never_markup(tmp_path: Path) -> None:
    record = store.load(write(tmp_path, requests=[request(1), failure(2, "http_status", HTML_IN_A_MESSAGE)]))
    html = requests.failures(record).html
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_a_run_without_failures_has_no_table_of_failures(record: BenchmarkRecord) -> None:
    assert requests.failures(record).html == ""
