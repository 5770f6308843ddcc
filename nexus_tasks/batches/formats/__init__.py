"""Formats of a batch's input, one module a family; each reads a file of any size in constant memory.

    for line, fields in csv_table.rows(Path("prompts.csv")):
        fields()                    # {"prompt": "Why?", "topic": "sky"}, or CannotAsk

A reader gives each row's line and a function that decodes its columns: whoever skips a row does not pay for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MAX_ROW_BYTES = 64 << 20
"""A larger row is none that a server takes, but a file without line ends, or a quote that is never closed."""
TEXT = "prompt"
"""Column of a row that is nothing but a text."""

Fields = dict[str, Any]
RawRow = tuple[int, Callable[[], Fields]]
"""Line at which a row begins, and what decodes it; that raises :class:`CannotAsk` where the row is damaged."""
Reader = Callable[[Path], Iterator[RawRow]]
