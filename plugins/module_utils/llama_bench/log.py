"""The log of a run: its lines, in memory and in a file that outlives it. Python 3.9's standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any

from ..hostlib.files import write_line


class Log:
    """The lines of a run, in memory and in a file that outlives it."""

    def __init__(self, folder: str, run: str) -> None:
        self.lines: list[dict[str, Any]] = []
        self._progress = os.path.join(folder, "progress")
        self._path = os.path.join(folder, "lines.jsonl")
        self.begun_at = time.monotonic()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        self._write({"run": run, "begun_at": self.begun_at})
        self.show("loading the model")

    def add(self, command: int, text: str) -> None:
        """Keep a line, with the second of the run in which it came."""
        line = {"command": command, "t_s": round(time.monotonic() - self.begun_at, 6), "text": text}
        self.lines.append(line)
        self._write(line)

    def show(self, text: str) -> None:
        """Write the line that people see."""
        write_line(self._progress, text)

    def _write(self, row: dict[str, Any]) -> None:
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
