"""Prompts with columns as variables."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_tasks.batches import templates
from nexus_tasks.batches.items import CannotAsk
from nexus_tasks.core.errors import UsageError


def test_columns_take_the_place_of_variables() -> None:
    template = templates.parse("Into {{ target language }}:\n{{text}} {not one} {{text}}")
    assert template.names == ("target language", "text", "text")
    fields = {"target language": "Danish", "text": "{{ text }} \\1 Ärger\0"}
    assert template.render(fields) == "Into Danish:\n{{ text }} \\1 Ärger\0 {not one} {{ text }} \\1 Ärger\0"


def test_values_that_are_no_texts_are_json() -> None:
    fields = {"a": [1, {"b": "ä"}], "b": True, "c": 0, "d": 1.5}
    assert templates.parse("{{a}} {{b}} {{c}} {{d}}").render(fields) == '[1,{"b":"ä"}] true 0 1.5'


@pytest.mark.parametrize("fields", [{}, {"topic": None}, {"topic": ""}], ids=["missing", "null", "empty"])
def test_a_row_without_a_value_is_set_aside(fields: dict[str, Any]) -> None:
    with pytest.raises(CannotAsk) as unfit:
        templates.parse("About {{ topic }}").render(fields)
    assert unfit.value.misfit.kind == "template"
    assert unfit.value.misfit.message == "the template's {{ topic }} has no value in this row"


@pytest.mark.parametrize("text", ["{{ }}", "a {{ b", "{{ {a} }}"])
def test_braces_that_are_no_variable_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="begins no variable"):
        templates.parse(text)


def test_a_text_without_variables_is_a_template_too() -> None:
    assert templates.parse("Tell a joke. } }}").render({}) == "Tell a joke. } }}"
