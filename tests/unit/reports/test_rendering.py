"""Fingerprints of pages: when one is out of date."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from nexus_tasks.reports import rendering, site
from tests.report_pages import pretend_rendered
from tests.report_records import NOON, write

HOUR = timedelta(hours=1)


def test_a_report_is_out_of_date_when_its_record_notebook_or_parameters_change(tmp_path: Path) -> None:
    record = write(tmp_path / "results")
    notebook = tmp_path / "benchmark.ipynb"
    notebook.write_bytes((site.NOTEBOOKS / "benchmark.ipynb").read_bytes())
    prints = {rendering.fingerprint([record], notebook, {}), rendering.fingerprint([record], notebook, {"a": "1"})}
    notebook.write_text(notebook.read_text() + "\n")
    prints.add(rendering.fingerprint([record], notebook, {}))
    record.write_text(record.read_text() + "\n")
    prints.add(rendering.fingerprint([record], notebook, {}))
    assert len(prints) == 4


def test_a_later_run_of_the_same_target_leaves_a_report_up_to_date(tmp_path: Path) -> None:
    record = write(tmp_path / "results", NOON)
    page = pretend_rendered(tmp_path, record)
    write(tmp_path / "results", NOON + HOUR)
    inputs = rendering.fingerprint([record], site.NOTEBOOKS / "benchmark.ipynb", {})
    assert rendering.is_current(page, inputs)
