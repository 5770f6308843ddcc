"""Text for a terminal: without what controls it, shortened, wrapped and in columns, by the number of its characters."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

# Sequences of escape, and those that C1 controls begin with one character: colours, titles, the clipboard. One that has
# no end takes no more than its line.
SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?|"
    r"\x1b[ -/]*[0-~]?"
)
# Characters that move, hide or turn around what stands beside them: controls but for line ends and tabs, marks of the
# direction of writing, separators of lines, spaces without a width, tags, halves of surrogate pairs.
CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)


def plain(text: str) -> str:
    """A text of others that a terminal shows as it is: line ends and tabs stay, and letters of any language."""
    return CONTROLS.sub("", SEQUENCES.sub("", text))


def all_plain(value: Any) -> Any:
    """A value as JSON has it with all of its texts :func:`plain`."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {key: all_plain(item) for key, item in value.items()}
    return [all_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


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
