"""Top of a sweep's page; its table of levels is in :mod:`nexus_tasks.reports.levels`."""

from __future__ import annotations

from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import run_page
from nexus_tasks.reports.frames import History
from nexus_tasks.reports.markup import Block
from nexus_tasks.reports.pages.sweep import sentences


def head(record: BenchmarkRecord, past: History) -> Block:
    """The top of a sweep's page."""
    return run_page.head(record, past, sentences.opening(record), "Sweep")
