"""Versions of drivers and toolkits. Python 3.9's standard library only."""

from __future__ import annotations

import re


def version(text: str) -> tuple[int, ...]:
    """A version as something to compare, as in ``(580, 95, 5)``."""
    return tuple(int(part) for part in re.findall(r"\d+", text))


def branch_of(driver: str) -> str:
    """The branch of a driver's version: ``580`` of ``580.95.05``."""
    return driver.partition(".")[0]


def of_branch(version: str, branch: str) -> bool:
    """True for a package's or driver's version, perhaps with an epoch, that is of a branch."""
    return version.rpartition(":")[2].startswith(f"{branch}.")
