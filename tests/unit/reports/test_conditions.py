"""Conditions of a run as a page lists them."""

from __future__ import annotations

from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import conditions


def test_the_command_line_shows_a_flag_a_line_quoted_for_a_shell(record: BenchmarkRecord) -> None:
    html = conditions.measured(record).html
    assert "/bin/llama-server \\\n    --port 8600 \\\n    --alias &#39;a name&#39;</pre>" in html
