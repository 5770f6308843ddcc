"""The last good proof of an instance, which the next one is compared with."""

from __future__ import annotations

from typing import Any

from ..files import read_json, to_json, write_file
from ..folder import Folder


def keep(row: dict[str, Any], folder: Folder) -> None:
    """Remember a good proof. ``best_tokens_per_second`` is the best of this model here, so decline can't creep, and
    what a busy server did not let be measured stays what it was.
    """
    last = read_json(folder.file("proof.json")) or {}
    speed, best = row["tokens_per_second"], row["tokens_per_second"]
    if (last.get("model") or {}).get("sha256") == (row["model"] or {}).get("sha256"):
        best = max(best or 0, last.get("best_tokens_per_second") or 0) or None
    if last.get("generation") == row["generation"]:
        speed = speed or last.get("tokens_per_second")
    kept = {**row, "tokens_per_second": speed, "best_tokens_per_second": best}
    write_file(folder.file("proof.json"), to_json(kept))
