"""The last good proof (verification) of an instance, which the next one is compared with."""

from __future__ import annotations

import contextlib
from typing import Any

from ...hostlib.instances import ProofRecord
from ..folder import Folder


def keep(row: dict[str, Any], folder: Folder) -> None:
    """Remember a good proof. ``best_tokens_per_second`` is the best of this model here, so decline can't creep, and
    what a busy server did not let be measured stays what it was.
    """
    last = folder.last_proof()
    speed, best = row["tokens_per_second"], row["tokens_per_second"]
    if (last.model and last.model.sha256) == (row["model"] or {}).get("sha256"):
        best = max(best or 0, last.best_tokens_per_second or 0) or None
    slots = row["slots_by_model"]
    if last.generation == row["generation"]:
        speed = speed or last.tokens_per_second
        slots = {**last.slots_by_model, **slots}
    kept = {"tokens_per_second": speed, "best_tokens_per_second": best, "slots_by_model": slots}
    folder.keep_proof(ProofRecord.from_json({**row, **kept}))


def keep_life(row: dict[str, Any], folder: Folder) -> None:
    """Remember a good proof of what goes on running, where it has begun another life: its log will be gone one day."""
    if not row["error"] and row["placements"] != folder.last_proof().as_json().get("placements"):
        with contextlib.suppress(OSError):
            keep(row, folder)
