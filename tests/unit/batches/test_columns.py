"""Ids, metadata and values of columns."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_tasks.batches.columns import Columns, given, parsed
from nexus_tasks.batches.items import CannotAsk


@pytest.mark.parametrize(
    ("fields", "row_id"),
    [({"id": "q"}, "q"), ({"id": 7}, "7"), ({"id": ""}, "9"), ({"id": None}, "9"), ({}, "9")],
    ids=["text", "number", "empty", "null", "missing"],
)
def test_a_row_has_the_id_of_its_column_or_else_its_line(fields: dict[str, Any], row_id: str) -> None:
    assert Columns().row(3, 9, fields).id == row_id
    assert Columns(id=None).row(3, 9, fields).id == "9"


def test_a_row_without_the_id_that_somebody_named_is_set_aside() -> None:
    with pytest.raises(CannotAsk, match="it has no key, which is the id"):
        Columns(id="key").row(3, 9, {"id": 1, "key": ""})


@pytest.mark.parametrize("value", [True, 1.5, [1], {}], ids=["true", "float", "list", "object"])
def test_an_id_of_another_kind_is_refused(value: object) -> None:
    with pytest.raises(CannotAsk, match="its id must be a text or a whole number"):
        Columns().row(3, 9, {"id": value})


def test_columns_that_say_nothing_of_the_request_are_metadata() -> None:
    columns = Columns(prompt="question", single={"max_tokens": "limit"})
    fields = {"id": 1, "question": "?", "prompt": "p", "limit": 3, "system": "s", "topic": "t", "parameters": {}}
    assert columns.metadata(fields) == {"prompt": "p", "topic": "t"}


def test_an_empty_cell_is_no_value() -> None:
    assert [given({"a": value}, "a") for value in ("", None, 0, "x")] == [None, None, 0, "x"]
    assert given({"a": 1}, None) is None


@pytest.mark.parametrize(
    ("value", "why"),
    [("{", "its a is not JSON"), ('{"b": 1}', "its a must be a list"), (5, "its a must be a list, not 5")],
    ids=["broken", "another kind", "number"],
)
def test_a_list_that_is_none_is_refused(value: object, why: str) -> None:
    with pytest.raises(CannotAsk, match=why):
        parsed({"a": value}, "a", list)
    assert parsed({"a": "[1]"}, "a", list) == [1]
