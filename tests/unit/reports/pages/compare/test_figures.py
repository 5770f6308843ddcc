"""Figures of pages that hold runs against one another."""

from __future__ import annotations

from nexus_tasks.reports.pages.compare import figures
from nexus_tasks.reports.pages.compare.sides import Compared
from nexus_tasks.reports.pages.models.figures import dots
from tests.report_pages import check_ids


def test_figures_of_these_pages_share_no_ids(pair: Compared) -> None:
    check_ids("".join(part.html for part in (figures.effects(pair), figures.curves(pair), dots(pair))))
