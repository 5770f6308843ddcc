"""Text for a terminal: shortened, wrapped and in columns, by the number of its characters."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any


def shortened(text: str, width: int) -> str:
    """``text`` in ``width`` columns; of a path its end is kept."""
    if len(text) <= width:
        return text
    return "…" + text[1 - width :] if text.startswith("/") else text[: width - 1] + "…"


def first_line(text: str | None) -> str:
    """The message without the end of a log that follows it."""
    return (text or "").strip().partition("\n")[0]


def wrapped(text: str, indent: int, width: int, *, hang: int = 0) -> list[str]:
    """``text`` as indented lines; words that are too long are not cut, so that they can be copied."""
    first, others = " " * indent, " " * (indent + hang)
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=others, **options)


def listed(parts: Iterable[str | None], indent: int, width: int) -> list[str]:
    """Those parts that there are, with commas; lines end between parts."""
    text = ", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts if part)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in wrapped(text, indent, width)]


def columns(rows: Sequence[Sequence[str]], right: Sequence[int] = (), indent: int = 0) -> list[str]:
    """Rows of cells as aligned lines, two spaces between columns; those whose numbers are in ``right`` align right."""
    widths = [max(map(len, cells)) for cells in zip(*rows)]
    return [
        (
            " " * indent
            + "  ".join(
                cell.rjust(width) if number in right else cell.ljust(width)
                for number, (cell, width) in enumerate(zip(row, widths))
            )
        ).rstrip()
        for row in rows
    ]
