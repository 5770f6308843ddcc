"""Parameters of requests: those of the run, and those that a row has of its own.

    run = parameters.checked({"max_tokens": 100, "temperature": 0.2})
    row = parameters.of_row(fields, columns)            # {"max_tokens": 20}
    {**run, **row}                                      # what counts more stands later

They have the names of the OpenAI API and llama-server, and go into the request's body under these; ``json_schema``,
``grammar`` and ``tools`` as their API wants them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from nexus_tasks.batches.columns import Columns, given, parsed
from nexus_tasks.batches.formats import Fields
from nexus_tasks.batches.items import CannotAsk

Parameters = dict[str, Any]
_JSON = ("json_schema", "tools", "stop")
"""Values that a table holds as JSON."""

Share = Annotated[float, Meta(ge=0, le=1)]


class _Function(msgspec.Struct):
    """A function that a model may call; what it has beside its name is the server's matter."""

    name: str


class _Tool(msgspec.Struct):
    type: Literal["function"]
    function: _Function


class _Parameters(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: Share | None = None
    top_k: int | None = None
    min_p: Share | None = None
    repeat_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: Annotated[int, Meta(ge=0, le=2**32 - 2)] | None = None
    stop: str | list[str] | None = None
    json_schema: dict[str, Any] | bool | None = None
    grammar: str | None = None
    tools: Annotated[list[_Tool], Meta(min_length=1)] | None = None


NAMES = _Parameters.__struct_fields__


def checked(values: Mapping[str, Any]) -> Parameters:
    """Values by name, as the types that they must have; those that are None are left out.

    Raises:
        ValueError: a name is unknown or a value is of the wrong type or size; one line.
    """
    unknown = next((name for name in values if name not in NAMES), None)
    if unknown is not None:
        raise ValueError(f"there is no parameter {unknown}: use {', '.join(NAMES)}")
    try:
        typed = msgspec.convert(values, _Parameters, strict=False)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$.")
        raise ValueError(f"{place.rstrip('`')}: {message}") from error
    found = {name: getattr(typed, name) for name in NAMES}
    if typed.tools is not None:
        found["tools"] = values["tools"]
    return {name: value for name, value in found.items() if value is not None}


def of_row(fields: Fields, columns: Columns) -> Parameters:
    """The parameters that a row has of its own.

    Raises:
        CannotAsk: one is unknown, or its value is not such as it must have.
    """
    values = dict(parsed(fields, columns.parameters, dict) or {})
    for name, column in columns.single.items():
        value = given(fields, column)
        if value is not None:
            values[name] = _value_of(name, value)
    if not values:
        return {}
    try:
        return checked(values)
    except ValueError as error:
        raise CannotAsk("parameter", str(error)) from error


def _value_of(name: str, value: Any) -> Any:
    """The value of a column of one parameter, which in tables may be the JSON of what it says."""
    if name not in _JSON or not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return value  # a stop text, or what checked() refuses
