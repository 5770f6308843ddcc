"""Tables of a tuning's page."""

from __future__ import annotations

import re

from nexus_tasks.reports.pages.compare.sides import Compared
from nexus_tasks.reports.pages.tuning import tables


def test_a_tuning_shows_the_options_that_were_changed_first(pair: Compared) -> None:
    html = tables.options(pair).html
    changed, same = html.split("<details>")
    assert re.findall(r'<td class="">([^<]*)</td>', changed) == ["--ubatch-size", "512", "1024"]
    assert "1 options that are the same" in same
    assert "--parallel" in same
