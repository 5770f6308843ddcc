"""Items of a batch."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_tasks.batches.items import SCHEMA_NAME_LETTERS, schema_name


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        ({"title": " A \n city ", "type": "object"}, "A city"),
        ({"title": "x" * 300}, "x" * SCHEMA_NAME_LETTERS),
        ({"title": ["no text"]}, None),
        ({"title": "  "}, None),
        (True, None),
    ],
)
def test_a_schema_is_called_by_its_title_and_else_by_a_digest(schema: dict[str, Any] | bool, name: str | None) -> None:
    assert schema_name(schema) == name or (name is None and schema_name(schema).startswith("schema "))


def test_schemas_that_differ_in_the_order_of_their_keys_have_one_name() -> None:
    assert schema_name({"type": "object", "minProperties": 1}) == schema_name({"minProperties": 1, "type": "object"})
    assert schema_name({"type": "object"}) != schema_name({"type": "array"})
