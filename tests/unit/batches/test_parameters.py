"""Parameters of the run and of its rows."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from nexus_tasks.batches import parameters
from nexus_tasks.batches.columns import Columns
from nexus_tasks.batches.items import CannotAsk
from tests.conftest import ROOT

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}, "own": 1}


def test_values_have_the_types_that_they_must_have_also_where_a_table_has_texts() -> None:
    values = {"max_tokens": "20", "temperature": "0.5", "top_k": 40, "stop": "\n", "grammar": None, "tools": [TOOL]}
    assert parameters.checked(values) == {
        "max_tokens": 20, "temperature": 0.5, "top_k": 40, "stop": "\n", "tools": [TOOL],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"max_token": 5}, "there is no parameter max_token: use max_tokens"),
        ({"max_tokens": 0}, "max_tokens: Expected `int` >= 1"),
        ({"temperature": "warm"}, "temperature: Expected `float"),
        ({"temperature": "0,5"}, "temperature: Expected `float"),
        ({"top_p": 1.5}, "top_p: Expected `float` <= 1"),
        ({"json_schema": 5}, "json_schema: Expected `"),
        ({"tools": [{"name": "weather"}]}, "tools[0]: Object missing required field `type`"),
        ({"tools": []}, "tools: Expected `array` of length >= 1"),
    ],
    ids=["unknown", "zero", "text", "comma", "above", "schema", "tool", "no tools"],
)
def test_a_value_that_makes_no_sense_is_refused_by_its_name(values: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        parameters.checked(values)
    with pytest.raises(CannotAsk) as unfit:
        parameters.of_row({"parameters": values}, Columns())
    assert unfit.value.misfit.kind == "parameter"


def test_a_row_has_parameters_in_an_object_and_in_columns_that_are_named() -> None:
    columns = Columns(single={"max_tokens": "limit", "stop": "end", "json_schema": "form", "grammar": "rules"})
    fields = {
        "parameters": '{"max_tokens": 5, "seed": 1}', "limit": "9", "end": "###", "form": '{"type": "object"}',
        "rules": "", "temperature": 2,
    }  # fmt: skip
    assert parameters.of_row(fields, columns) == {
        "max_tokens": 9, "seed": 1, "stop": "###", "json_schema": {"type": "object"},
    }  # fmt: skip
    assert parameters.of_row({"temperature": 2}, Columns()) == {}


def test_all_that_sampling_presets_hold_are_parameters() -> None:
    presets = yaml.safe_load((ROOT / "group_vars/all/sampling.yml").read_text())["llama_sampling_presets"]
    for preset in presets.values():
        assert parameters.checked(preset) == preset
