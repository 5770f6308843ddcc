"""Work that a server has, asked so that one that sleeps goes on sleeping.

    work = work_of(server, config, key)      # Work(working=2, slots=4), or None where it does not tell

llama-server loads its model anew for /slots, and counts its idle seconds from there; it does neither for /health,
/props, /models and /metrics. A router's models are each asked by their names, those that are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ..hostlib.instances import Instance
from .client import LOOK_SECONDS, Server


@dataclass(frozen=True)
class Work:
    """Slots of a server, or of all models of a router that are loaded."""

    working: int = 0
    slots: int = 0
    is_sleeping: bool = False
    """True where its model, or each that a router has, is unloaded until somebody asks."""

    @property
    def is_full(self) -> bool:
        return self.working >= self.slots


def work_of(server: Server, config: Instance, key: str | None, timeout: float = LOOK_SECONDS) -> Work | None:
    """The slots at work; None where the server does not tell. Raises as ``Server.ask`` does.

    Args:
        timeout: seconds, for each of its answers.
    """
    if config.mode == "router":
        return _work_of_router(server, key, timeout)
    code, props = server.ask("/props", key=key, timeout=timeout)
    if code == 200 and isinstance(props, dict) and props.get("is_sleeping"):
        return Work(is_sleeping=True)
    return _slots(server, "/slots", key, timeout)


def _work_of_router(server: Server, key: str | None, timeout: float) -> Work | None:
    models = models_of(server, key, timeout)
    states = {name: model.get("value") for name, model in models.items()}
    loaded = [name for name, state in states.items() if state == "loaded"]
    if not loaded:
        return Work(is_sleeping="sleeping" in states.values())
    of_models = [_slots(server, f"/slots?model={quote(name)}&autoload=false", key, timeout) for name in loaded]
    told = [work for work in of_models if work]
    return Work(sum(work.working for work in told), sum(work.slots for work in told)) if told else None


def models_of(server: Server, key: str | None, timeout: float) -> dict[str, dict[str, Any]]:
    """A router's models: ``value``, which is loaded, sleeping or not, and ``args``, the command line of the process."""
    _, answer = server.ask("/v1/models", key=key, timeout=timeout)
    models = answer.get("data", []) if isinstance(answer, dict) else []
    return {str(model["id"]): model.get("status", {}) for model in models if isinstance(model, dict) and "id" in model}


def _slots(server: Server, path: str, key: str | None, timeout: float) -> Work | None:
    code, slots = server.ask(path, key=key, timeout=timeout)
    if code != 200 or not isinstance(slots, list):
        return None
    return Work(sum(bool(slot.get("is_processing")) for slot in slots if isinstance(slot, dict)), len(slots))
