"""Wording of a batch's page: places of rows, shares, options.

wording.place(8, "q-7")                  "line 8 · q-7"
wording.percent(0.803)                   "80.3 %"
wording.option("token_s", 300.0)         ("Token", "300 s")
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from nexus_tasks.core.text import MISSING, SPACE
from nexus_tasks.records.batch_rows import Example

EXAMPLES = 3  # of a cause


def examples(examples: Sequence[Example]) -> list[dict[str, str]]:
    """Examples with the places that show them; those of one message are one."""
    places: dict[str, list[str]] = {}
    for one in examples:
        told = one.line is not None and re.search(rf"\bline {one.line}\b", one.message)
        at = "" if told else place(one.line, one.id)
        places.setdefault(one.message, []).append(at)
    return [
        {"message": message, "place": ", ".join(filter(None, found))}
        for message, found in list(places.items())[:EXAMPLES]
    ]


def place(line: int | None, name: str | None) -> str:
    """The place of a row in the input: its line, and its id where that is another."""
    at = "" if line is None else f"line {line:,}"
    return " · ".join(filter(None, [at, name if name is not None and name != str(line) else ""]))


def percent(share: float | None) -> str:
    return MISSING if share is None else f"{share * 100:.1f}{SPACE}%"


def words(name: str) -> str:
    return name.replace("_", " ")


def option(name: str, value: Any) -> tuple[str, str]:
    """An option as a fact: ``token_s`` with 300.0 is the token, 300 s."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if name.endswith("_s") and isinstance(value, int | float):
        name, text = name.removesuffix("_s"), f"{value:g}{SPACE}s"
    return words(name).capitalize(), text
