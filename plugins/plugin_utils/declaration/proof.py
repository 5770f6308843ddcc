"""Requirements of the proof of an instance: speeds, times, tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .instances import well_formed
from .rules import Settings

GIB = 1024**3
UNKNOWN_BYTES = 64 * GIB  # of a model that nobody tells: what waits too long costs time, too short a rollback


def start_limits(
    rows: Iterable[Mapping[str, Any]], action: str, instances: Mapping[str, Any], settings: Settings
) -> dict[str, dict[str, Any]]:
    """Requirements of the proof of a start, by instance, and as ``default`` for those that are not deployed.

    Args:
        rows: those of a status.
        action: start, restart or rollback.
        instances: llama_server_instances.
        settings: the role's variables.
    """
    limits = {"default": proof_limits({}, settings, UNKNOWN_BYTES)}
    for row in rows:
        config = row.get("config") or {}
        models = [config.get("model"), *(config.get("models") or {}).values(), *config.get("side_models", [])]
        known = sum(model["size_bytes"] for model in models if model)
        # The earlier generation may have had another model.
        size = known if known and action != "rollback" else max(known, UNKNOWN_BYTES)
        limits[row["name"]] = proof_limits(well_formed(instances).get(row["name"], {}), settings, size)
    return limits


def proof_limits(
    options: Mapping[str, Any], settings: Settings, size_bytes: float, mode: str = "completion"
) -> dict[str, Any]:
    """Requirements of the proof of an instance with models of this size."""
    seconds = int(settings["start_timeout"]) + int(float(settings["start_timeout_per_gib"]) * size_bytes / GIB)
    return {
        **{floor: floor_of(floor, options, settings, mode) for floor in ("min_decode_tps", "max_regression")},
        "start_timeout": seconds,
        "tokens": int(settings["tokens"]),
        "drain_timeout": int(settings["drain_timeout"]),
    }


def floor_of(name: str, options: Mapping[str, Any], settings: Settings, mode: str) -> float | None:
    """A floor of the speed; none where nothing is decoded."""
    value = settings[name] if options.get(name) is None else options[name]
    return float(value) if value is not None and mode == "completion" else None
