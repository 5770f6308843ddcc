"""Page of usage, rendered from a record by its notebook, and its row in the index."""

from __future__ import annotations

import re
from pathlib import Path

from nexus_tasks.reports import site
from nexus_tasks.reports.site import Folders
from tests.usage_records import REFUSED, record, row


def test_a_record_of_usage_becomes_a_page_that_the_index_lists(tmp_path: Path) -> None:
    made = record(tmp_path / "results", [row(), row(user="bob"), row(user="", model="", **REFUSED)])
    index, failures = site.update(["usage"], folders=Folders(tmp_path / "results", tmp_path / "reports"))
    assert failures == 0
    page = tmp_path / "reports" / "usage" / f"{made.path.stem}.html"
    html = page.read_text()
    assert "7 requests, 120 tokens by 2 users" in re.sub(r"<[^>]+>", "", html)
    assert f"usage/{made.path.stem}.html?" in index.read_text()
    assert "gw-1" in index.read_text()
