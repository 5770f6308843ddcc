"""Columns of the input: which of them say what is asked.

    columns = Columns(prompt="question", messages=None)
    row = columns.row(3, line=4, fields={"id": "q-3", "question": "Why?", "topic": "sky"})
    columns.metadata(row.fields)                    # {"topic": "sky"}

What no part of the request is made of is metadata: it is kept with the row, and never sent.
"""

from __future__ import annotations

from typing import Any

import msgspec

from nexus_tasks.batches.formats import Fields
from nexus_tasks.batches.items import CannotAsk, Row

_DEFAULT_ID = "id"


class Columns(msgspec.Struct, frozen=True, omit_defaults=True):
    """Names of columns by what they hold; None where no column does.

    Args:
        id: the row's id. Of rows without it the line is the id, unless another column than the usual one is named.
        prompt: a text.
        messages: the messages of a chat, as a list or its JSON.
        system: the system prompt; it takes the place of the run's.
        parameters: an object, or its JSON, with parameters of this row's request by name.
        single: columns that hold one parameter each, by the parameter's name.
    """

    id: str | None = _DEFAULT_ID
    prompt: str | None = "prompt"
    messages: str | None = "messages"
    system: str | None = "system"
    parameters: str | None = "parameters"
    single: dict[str, str] = {}

    def row(self, number: int, line: int, fields: Fields) -> Row:
        """The row that these fields are, with its id.

        Raises:
            CannotAsk: its id is neither a text nor a whole number, or it lacks one.
        """
        value = given(fields, self.id)
        if value is None and self.id in (None, _DEFAULT_ID):
            return Row(number, line, str(line), fields)
        if value is None:
            raise CannotAsk("malformed", f"it has no {self.id}, which is the id")
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise CannotAsk("malformed", f"its {self.id} must be a text or a whole number, not {value!r:.50}")
        return Row(number, line, str(value), fields)

    def named(self) -> set[str]:
        """The columns that somebody named: those that are not the usual ones."""
        usual = Columns()
        names = ("id", "prompt", "messages", "system", "parameters")
        own = {getattr(self, name) for name in names if getattr(self, name) != getattr(usual, name)}
        return {name for name in {*own, *self.single.values()} if name is not None}

    def metadata(self, fields: Fields) -> Fields:
        """The fields that are no part of the request."""
        used = {self.id, self.prompt, self.messages, self.system, self.parameters, *self.single.values()}
        return {name: value for name, value in fields.items() if name not in used}


def given(fields: Fields, name: str | None) -> Any:
    """The value in a column; None where there is none: an empty text is what tables have for that."""
    value = fields.get(name) if name is not None else None
    return None if value == "" else value


def parsed(fields: Fields, name: str | None, kind: type[list[Any]] | type[dict[str, Any]]) -> Any:
    """The list or object in a column, which may be the JSON of one, as in CSV files; None where there is none.

    Raises:
        CannotAsk: it is neither.
    """
    value = given(fields, name)
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            why = str(error).removeprefix("JSON is malformed: ")
            raise CannotAsk("malformed", f"its {name} is not JSON: {why}") from error
    if value is None or isinstance(value, kind):
        return value
    what = "a list" if kind is list else "an object"
    raise CannotAsk("malformed", f"its {name} must be {what}, not {value!r:.50}")
