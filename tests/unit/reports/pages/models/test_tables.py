"""Tables of a page that shows models side by side."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

from nexus_tasks.reports.pages.compare import sides
from nexus_tasks.reports.pages.compare.sides import Compared
from nexus_tasks.reports.pages.models import tables
from tests.report_records import NOON, write

HOUR = timedelta(hours=1)


def test_answers_to_the_same_prompts_are_shown_and_never_markup(pair: Compared) -> None:
    html = tables.answers(pair, limit=5).html
    assert html.count("<article>") == 10
    assert "answer &lt;0&gt; &amp; more" in html
    assert "55 more prompts were answered by all" in html


def test_prompts_stand_above_their_answers_in_the_order_of_the_file(tmp_path: Path) -> None:
    compared = sides.read([[str(write(tmp_path, NOON + place * HOUR))] for place in range(2)])
    for record in compared.records:
        for row, (key, turn) in zip(record.requests[-3:], [("10", 0), ("9", 1), ("9", 0)], strict=True):
            row.phase, row.key, row.turn, row.answer = "run", key, turn, "so"
            row.prompt = f"<{key}-{turn}>" + 700 * "x"
    html = tables.answers(compared).html
    assert re.findall(r"<h3>(.*?)</h3>", html) == ["9", "9, turn 2", "10"]
    assert [asked[:14] for asked in re.findall(r"<blockquote[^>]*>(.*?)</blockquote>", html)] == [
        "&lt;9-0&gt;xxx", "&lt;9-1&gt;xxx", "&lt;10-0&gt;xx",
    ]  # fmt: skip
    assert "x…</blockquote>" in html


def test_runs_without_answers_say_how_to_get_them(tmp_path: Path) -> None:
    paths = [[str(write(tmp_path, NOON + place * HOUR))] for place in range(2)]
    assert "--keep-answers" in tables.answers(sides.read(paths)).html


def test_only_a_model_that_is_clearly_best_stands_out(pair: Compared) -> None:
    rows = re.findall(r"<tr>(.*?)</tr>", tables.speeds(pair).html, re.DOTALL)[1:]
    ttft, itl = 2, 3
    cells = [re.findall(r'<td class="([^"]*)"', row) for row in rows]
    assert [cell[itl] for cell in cells] == ["number good", "number "]
    assert [cell[ttft] for cell in cells] == ["number ", "number "]
