"""Page of usage as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.accounting import totals
from nexus_tasks.records.store import UsageRecord
from nexus_tasks.reports.pages.usage import figures, sentences, tables
from tests.report_pages import check_ids
from tests.usage_records import REFUSED, bins, record, row

BLOCKS = (
    tables.head, tables.lost, tables.users, tables.models, figures.over_time, tables.days, figures.waiting,
    tables.waiting, tables.refusals, tables.footer,
)  # fmt: skip


def page(made: UsageRecord) -> str:
    return "".join(block(made).html for block in BLOCKS)


def test_users_models_days_and_refusals_are_told(tmp_path: Path) -> None:
    rows = [
        row(), row(user="bob", model="big", completion_tokens=180, partial=1), row(hour="2026-12-02T23"),
        row(user="", model="", **REFUSED),
    ]  # fmt: skip
    html = page(record(tmp_path, rows))
    check_ids(html)
    for said in (
        "9 requests, 340 tokens by 2 users, most of them by bob (65%) and alice (35%).",
        "25% of the prompts", "of 1 at least", "nobody known", "no key, or one that is not known", "2026-12-02",
    ):  # fmt: skip
        assert said in html, said


@pytest.mark.parametrize(
    ("rows", "values", "said"),
    [
        ([], {}, "There was no request."),
        ([row(user="", model="", **REFUSED)], {}, "No request came to a server"),
        ([row()], {"lost": {"gw-2": "it is unreachable"}}, "1 gateway could not be asked"),
        ([row()], {"damaged": 2}, "2 lines of the logs could not be read"),
        ([row(user=f"user-{number}") for number in range(90)], {}, "40 more are not listed"),
        ([row(hour=f"2026-{month:02}-01T09") for month in range(1, 13)], {}, "Tokens by day"),
        ([row(user="<b>&", model="$x$ \x1b[31m", prompt_tokens=10**15, queue_ms=bins(more=3))], {}, "longer"),
    ],
    ids=["nothing", "refused alone", "a lost gateway", "damage", "many users", "a year", "nasty names"],
)
def test_usage_of_which_there_is_little_or_much_has_a_page(
    tmp_path: Path, rows: list[Any], values: dict[str, Any], said: str
) -> None:
    html = page(record(tmp_path, rows, **values))
    if rows:
        check_ids(html)
    assert said in html
    assert "<b>&" not in html


def test_the_tone_says_whether_the_numbers_are_whole(tmp_path: Path) -> None:
    def tone(rows: list[Any], **values: Any) -> str:
        made = record(tmp_path, rows, **values)
        return sentences.tone(made, totals.overall(made.rows, made.header.bounds_ms))

    assert (tone([row()]), tone([]), tone([row()], damaged=1)) == ("good", "muted", "bad")
