"""Templates of prompts, whose variables are columns of the input.

    template = templates.parse("Translate into {{ language }}: {{ text }}")
    template.names                                              # ("language", "text")
    template.render({"language": "Danish", "text": "Hello"})    # "Translate into Danish: Hello"

A text is put in as it is; numbers, lists and objects as their JSON. There is nothing but variables: no conditions, no
loops. What is put in is never looked at for variables again.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import msgspec

from nexus_tasks.batches.formats import Fields
from nexus_tasks.batches.items import CannotAsk
from nexus_tasks.core.errors import UsageError

_VARIABLE = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")


class Template(msgspec.Struct, frozen=True):
    """Texts, and between each two of them the name of a column."""

    texts: tuple[str, ...]
    names: tuple[str, ...]

    def render(self, fields: Fields) -> str:
        """The prompt of a row.

        Raises:
            CannotAsk: a column is missing, empty or null.
        """
        parts = [self.texts[0]]
        for name, text in zip(self.names, self.texts[1:], strict=True):
            parts += [_text(name, fields.get(name)), text]
        return "".join(parts)


@lru_cache(maxsize=8)
def parse(text: str) -> Template:
    """The template that a text is.

    Raises:
        UsageError: a variable has no name, or its braces are not closed.
    """
    pieces = _VARIABLE.split(text)
    template = Template(tuple(pieces[::2]), tuple(pieces[1::2]))
    if "" in template.names or any("{{" in piece for piece in template.texts):
        raise UsageError("the template has {{ that begins no variable", hint="write variables as {{ column }}")
    return template


def _text(name: str, value: Any) -> str:
    if value is None or value == "":
        raise CannotAsk("template", f"the template's {{{{ {name} }}}} has no value in this row")
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
