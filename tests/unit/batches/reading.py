"""Reading all rows of a file, for tests of the readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nexus_tasks.batches.formats import Reader
from nexus_tasks.batches.items import CannotAsk


def read(reader: Reader, path: Path) -> dict[int, Any]:
    """The fields of each row by its line, or why there are none."""
    found: dict[int, Any] = {}
    for line, fields in reader(path):
        try:
            found[line] = fields()
        except CannotAsk as error:
            found[line] = error
    return found
