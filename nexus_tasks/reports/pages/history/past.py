"""History of a target: every run of it, oldest first, with what was changed between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nexus_tasks.records import store
from nexus_tasks.reports import frames

CHANGES = {"model": "model", "release": "release", "build": "build", "driver": "driver", "argv_sha256": "options"}


@dataclass(frozen=True)
class Past:
    """All runs of a target, oldest first, and what was changed between them: ``at``, ``what`` and a ``letter``."""

    target: str
    runs: pd.DataFrame
    marks: Sequence[dict[str, Any]]


def read(paths: Sequence[str]) -> Past:
    """The history that these records tell.

    Raises:
        RecordError: a record is damaged.
    """
    runs = frames.target(store.load(Path(path)) for path in paths)
    return Past(str(runs["target"].iloc[-1]), runs, marks(runs))


def marks(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Changes from one run to the next, as in :class:`Past`; what a record doesn't know is taken as unchanged."""
    changes: list[dict[str, Any]] = []
    known: dict[str, object] = {}
    for row in runs.to_dict("records"):
        changed: list[str] = []
        for key, word in CHANGES.items():
            value = row[key]
            if value is None or value != value or value == "unknown":
                continue
            if key in known and known[key] != value and not (key == "build" and "release" in " ".join(changed)):
                changed.append(
                    "other options" if key == "argv_sha256" else f"{word} {known[key]} \N{RIGHTWARDS ARROW} {value}"
                )
            known[key] = value
        if changed:
            letter = chr(ord("a") + len(changes)) if len(changes) < 26 else str(len(changes) + 1)
            changes.append({"at": row["started_at"], "what": ", ".join(changed), "letter": letter})
    return changes
