"""Answers that are to satisfy a JSON Schema."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from nexus_tasks.batches import schemas
from tests.conftest import ROOT

PERSON = {
    "type": "object",
    "properties": {
        "age": {"type": "integer", "minimum": 3},
        "pets": {"type": "array", "items": {"enum": ["cat", "dog"]}},
        "odd key": {"maxLength": 2},
    },
    "required": ["age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "empty"),
        (" \n", "empty"),
        ("forty-two", "not JSON"),
        ('{"age": 4', "not JSON"),
        ('{"age": NaN}', "not JSON"),
        ('{"age": 8E551882}', "a number in it is too large"),
        ('```json\n{"age": 4}\n```', "not JSON alone: it is in a code fence"),
        ("[1]", "at $: is not of type 'object'"),
        ("{}", "at $: 'age' is a required property"),
        ('{"age": "x"}', "at $.age: is not of type 'integer'"),
        ('{"age": 1}', "at $.age: is less than the minimum of 3"),
        ('{"age": 4, "pets": ["cat", "cow"]}', "at $.pets[*]: is not one of ['cat', 'dog']"),
        ('{"age": 4, "odd key": "long"}', "at $['odd key']: is too long"),
        ('{"age": 4, "name": 1}', "at $: Additional properties are not allowed ('name' was unexpected)"),
    ],
)
def test_an_answer_that_does_not_satisfy_its_schema_is_told_by_the_rule_and_its_place(
    answer: str | None, reason: str
) -> None:
    assert schemas.check_answer(PERSON, answer) == (False, reason)


def test_answers_that_satisfy_their_schema_have_no_reason() -> None:
    assert schemas.check_answer(PERSON, ' {"age": 4, "pets": ["dog"]} ') == (True, None)
    assert schemas.check_answer(True, "1") == (True, None)
    assert schemas.check_answer(False, "1")[0] is False


def test_reasons_of_long_values_are_short() -> None:
    valid, reason = schemas.check_answer({"enum": ["x" * 1000]}, '"y"')
    assert not valid
    assert reason
    assert len(reason) == 160


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "objekt"}, "at $.type: is not one of ['array'"),
        ({"properties": {"a": {"required": "b"}}}, "at $.properties.a.required: is not of type 'array'"),
        ({"pattern": "("}, "at $.pattern: is not a 'regex'"),
        ({"$ref": "#/$defs/none"}, "it refers to #/$defs/none, which is not in it"),
        ({"properties": {"a": {"$ref": "https://example.com/a.json"}}}, "it refers to https://example.com/a.json"),
        ({"$ref": "#"}, "it is nested too deeply to be checked"),
        ([1], "it must be an object"),
    ],
)
def test_a_schema_that_is_none_is_refused_with_its_place(schema: Any, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        schemas.check(schema)


def test_schemas_of_other_drafts_and_those_with_definitions_are_taken() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": {"n": {"type": "integer", "exclusiveMinimum": 0}},
        "items": [{"$ref": "#/definitions/n"}],
        "properties": {"$ref": {"type": "string"}},
    }
    schemas.check(schema)
    assert schemas.check_answer(schema, "[0]") == (False, "at $[*]: is less than or equal to the minimum of 0")


def test_a_schema_whose_parts_refer_to_others_by_their_own_base_is_none_that_any_answer_satisfies() -> None:
    schema = {"$defs": {"n": {}}, "items": {"$id": "https://example.com/part", "$ref": "#/$defs/n"}}
    schemas.check(schema)
    assert schemas.check_answer(schema, "[1]") == (False, "the schema refers to what is not in it")


def test_nothing_is_fetched_for_a_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def look_up(*name: object, **_: object) -> list[object]:
        asked.append(name)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(ValueError, match="which is not in it"):
        schemas.check({"$ref": "http://127.0.0.1:1/schema.json"})
    with pytest.raises(ValueError, match="which is not in it"):
        schemas.check({"items": {"$dynamicRef": "http://127.0.0.1:1/schema.json"}})
    part = {"$id": "http://127.0.0.1:1/part", "$ref": "other"}
    assert schemas.check_answer({"items": part, "$defs": {"other": {"$id": "other"}}}, "[1]")[0] is False
    assert asked == []


def test_a_number_that_cannot_be_reckoned_with_is_told() -> None:
    too_large = (False, "a number in it is too large")
    assert schemas.check_answer({"multipleOf": 0.5}, "1" + "0" * 400) == too_large
    assert schemas.check_answer(True, "1" + "0" * 5000) == too_large


def test_an_answer_nested_too_deeply_to_be_checked_is_invalid() -> None:
    tree = {"$defs": {"t": {"items": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t"}
    valid, reason = schemas.check_answer(tree, "[" * 400 + "]" * 400)
    assert (valid, reason) == (False, "it is nested too deeply to be checked")


def test_a_pattern_that_searches_for_ages_ends_the_check_and_not_the_batch() -> None:
    schema = {"properties": {"name": {"pattern": "^(a+)+$"}}}
    schemas.check(schema)
    assert schemas.check_answer(schema, f'{{"name": "{60 * "a"}b"}}') == (False, schemas.TOO_LONG)
    assert schemas.check_answer(schema, '{"name": "aaa"}') == (True, None)
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGVTALRM) == signal.SIG_DFL


@pytest.mark.parametrize("call", ["check({})", "check_answer({}, '1')"], ids=["schema", "answer"])
def test_the_time_to_import_the_checker_is_not_that_of_the_check(call: str) -> None:
    code = f"from nexus_tasks.batches import schemas; schemas.CHECK_S = 0.2; print(schemas.{call})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout in ("None\n", "(True, None)\n")


def wrapped(check: Callable[[], object]) -> None:
    """A check as a parser makes it that takes each error for one of its own."""
    try:
        check()
    except Exception as error:
        raise LookupError("in a rule of the grammar") from error


def passed_over(check: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):
        check()


@pytest.mark.parametrize("made", [wrapped, passed_over])
def test_a_part_of_the_check_cannot_hide_that_its_time_is_up(
    made: Callable[[Callable[[], object]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def search() -> None:
        until = time.process_time() + 10
        while time.process_time() < until:
            pass

    monkeypatch.setattr(schemas, "CHECK_S", 0.05)
    monkeypatch.setattr(schemas, "_validator", lambda _: made(search))
    with pytest.raises(ValueError, match="its check takes more than"):
        schemas.check({})
