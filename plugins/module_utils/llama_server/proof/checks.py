"""Checks of a proof: what was expected, what was found, and the likely cause where they differ."""

from __future__ import annotations

from typing import Any


class Checks:
    """The table of what was compared."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def compare(self, check: str, expected: object, found: object, cause: str) -> None:
        self.add(check, expected, found, expected == found, cause)

    def add(self, check: str, expected: object, found: object, ok: bool, cause: str) -> None:
        row = {"check": check, "expected": expected, "found": found, "ok": ok, "cause": "" if ok else cause}
        self.rows.append(row)

    def warn(self, check: str, found: object, cause: str) -> None:
        """Something declared that its reader should see, although it is no failure."""
        self.rows.append({"check": check, "expected": found, "found": found, "ok": True, "cause": cause})

    def differ(self, check: str, expected: object, found: object, cause: str) -> None:
        """A difference that its reader should see, although it is no failure."""
        self.rows.append({"check": check, "expected": expected, "found": found, "ok": True, "cause": cause})

    def failures(self) -> list[str]:
        return [
            f"{row['check']}: expected {row['expected']}, found {row['found']} ({row['cause']})"
            for row in self.rows
            if not row["ok"]
        ]
