"""Sharing of models within a play: the host that fetches each, and those that take it from there.

    leads({"rig-1": {"m": {"source": {…}, "present": False}}, …}, "rig-2")       {"m": "rig-1"}

A host that has a model already is taken first, else the first that lacks it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .model_profiles import source

FETCHED = ("url", "urls", "repo")
"""Sources that cross the uplink; others are on the host already, or come from the controller."""

States = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""By host and model: ``source``, as its profile has it, and whether it is ``present``."""


def fetched(names: Sequence[str], catalogue: Mapping[str, Any]) -> list[str]:
    """The names of models whose files cross the uplink."""
    return [name for name in names if any(kind in catalogue.get(name, {}) for kind in FETCHED)]


def states_of(results: Sequence[Mapping[str, Any]], catalogue: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The state of each model of a host, of the results of probes in a loop over ``__gguf_model_name``."""
    return {
        name: {"source": source(catalogue[name]), "present": result["present"]}
        for result in results
        for name in [result["__gguf_model_name"]]
    }


def leads(states: States, host: str) -> dict[str, str]:
    """The host that ``host`` has each of its missing models from, which may be itself."""
    return {name: _lead(states, host, name) for name, state in states[host].items() if not state["present"]}


def served(states: States, host: str) -> list[str]:
    """The models that other hosts take from this one."""
    others = (leads(states, other) for other in states if other != host)
    return sorted({name for theirs in others for name, lead in theirs.items() if lead == host})


def files_of(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The files of a model, as role gguf_model says where they are, as module gguf_file looks for them elsewhere."""
    return [
        {"path": "/" + file["path"].rpartition("/")[2], "size_bytes": file["size_bytes"], "sha256": file["sha256"]}
        for file in (model, *model.get("parts", ()))
    ]


def paths_of(model: Mapping[str, Any]) -> list[str]:
    """The paths of a model's files, as role gguf_model says where they are."""
    return [model["path"], *(part["path"] for part in model.get("parts", ()))]


def _lead(states: States, host: str, name: str) -> str:
    wanted = states[host][name]["source"]
    if not any(kind in wanted for kind in FETCHED):
        return host
    same = [other for other, models in states.items() if name in models and models[name]["source"] == wanted]
    return next((other for other in same if states[other][name]["present"]), same[0])
