"""Wording of a batch's page."""

from __future__ import annotations

import pytest

from nexus_tasks.core.text import MISSING, SPACE
from nexus_tasks.records.batch_rows import Example
from nexus_tasks.reports.pages.batch import wording


@pytest.mark.parametrize(
    ("line", "name", "place"),
    [(8, "q-7", "line 8 · q-7"), (8, "8", "line 8"), (8, None, "line 8"), (None, "q-7", "q-7"), (None, None, "")],
)
def test_a_place_is_a_line_and_an_id_that_is_another(line: int | None, name: str | None, place: str) -> None:
    assert wording.place(line, name) == place


def test_examples_of_one_message_are_one_and_no_line_is_told_twice() -> None:
    made = [Example(line=line, id=None, message=message) for line, message in (
        (1, "too long"), (2, "too long"), (3, "line 3 is not JSON"), (4, "other"), (5, "one more"),
    )]  # fmt: skip
    assert [(one["place"], one["message"]) for one in wording.examples(made)] == [
        ("line 1, line 2", "too long"), ("", "line 3 is not JSON"), ("line 4", "other"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("max_tokens", 200, ("Max tokens", "200")),
        ("token_s", 300.0, ("Token", f"300{SPACE}s")),
        ("system", "Be brief.", ("System", "Be brief.")),
        ("json_schema", {"type": "object"}, ("Json schema", '{"type": "object"}')),
    ],
)
def test_options_are_told_as_facts(name: str, value: object, told: tuple[str, str]) -> None:
    assert wording.option(name, value) == told


def test_a_share_that_is_unknown_is_a_dash() -> None:
    assert [wording.percent(share) for share in (None, 0.0, 1.0)] == [MISSING, f"0.0{SPACE}%", f"100.0{SPACE}%"]
