"""What the check found, row by row, and the table of it. Python 3.9's standard library only."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PACK, PACK_FILE = ".gpu-check", "pack.json"
OK, DIFFERS, FAILED, NOT_RUN = "ok", "DIFFERS", "FAILED", "not run"


@dataclass(frozen=True)
class Row:
    """One thing that was looked at. ``DIFFERS``: the tests' fakes claim what the real thing does not bear out."""

    step: str
    check: str
    verdict: str
    found: str
    note: str = ""


class NotRun(Exception):
    """Why a step could not be run, in one line; nothing is known to be wrong."""


class Report:
    """The rows of one step, in a file that is whole at any moment: a step that is killed leaves those before."""

    def __init__(self, folder: Path, step: str) -> None:
        self.path = folder / f"{step}.json"
        self.step = step
        self.rows: list[Row] = []
        self._started = time.monotonic()
        self._write(done=False)

    def add(self, check: str, verdict: str | bool, found: object, note: str = "") -> None:
        """Add a row; true is ``OK`` and false is ``FAILED``. The note is kept where it is not as it should be."""
        if isinstance(verdict, bool):
            verdict = OK if verdict else FAILED
        note = "" if verdict == OK else note
        self.rows.append(Row(self.step, check, verdict, one_line(str(found)), one_line(note)))
        self._write(done=False)

    def claim(self, check: str, holds: bool, found: object, claimed: str) -> None:
        """Add a row for what a fake claims."""
        self.add(check, OK if holds else DIFFERS, found, f"the fake claims {claimed}")

    def end(self) -> None:
        """Say that the step came to its end."""
        self._write(done=True)

    def _write(self, done: bool) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        seconds = round(time.monotonic() - self._started, 1)
        write(self.path, {"done": done, "seconds": seconds, "rows": [asdict(row) for row in self.rows]})


def one_line(text: str) -> str:
    return " ".join(text.split())


def write(path: Path, content: Any) -> None:
    """Write a file of JSON so that it is there whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    new.replace(path)


def read(folder: Path, step: str) -> dict[str, Any] | None:
    """What a step left: ``done``, ``seconds``, ``rows``; None where it was never begun."""
    try:
        found: dict[str, Any] = json.loads((folder / f"{step}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def complete(left: dict[str, Any] | None) -> bool:
    """Whether a step has nothing left to find out."""
    return bool(left and left["done"] and all(row["verdict"] in (OK, DIFFERS) for row in left["rows"]))


def status(rows: Iterable[dict[str, Any]]) -> int:
    """The exit status: 0 where all is well, 1 where something is not, 3 where something was not run."""
    verdicts = {row["verdict"] for row in rows}
    if verdicts & {DIFFERS, FAILED}:
        return 1
    return 3 if NOT_RUN in verdicts or not verdicts else 0


def table(rows: Iterable[dict[str, Any]], seconds: dict[str, float]) -> str:
    """The rows as text; a step's name and time stand before its first."""
    lines = [f"{'step':<20} {'check':<42} {'':<8} found", "-" * 118]
    last = None
    for row in rows:
        name = row["step"]
        took = f"{name} ({seconds[name]:.0f} s)" if name in seconds else name
        head = f"{took if name != last else '':<20} {row['check']:<42} {row['verdict']:<8} "
        text = row["found"] + (f": {row['note']}" if row["note"] else "")
        wrapped = textwrap.wrap(text, 118 - 72, break_long_words=False) or [""]
        lines += [head + wrapped[0], *(" " * 72 + line for line in wrapped[1:])]
        last = name
    return "\n".join(lines) + "\n"
