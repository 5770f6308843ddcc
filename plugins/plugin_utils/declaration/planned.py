"""Instances as plans of memory need them: the profile of each model, and the words of llama-server's command line.

planned(instances, settings)["models"]      [{"instance": "main", "model": "qwen3-8b", "argv": ["--model", …], …}, …]
planned(instances, settings)["profiles"]    {"qwen3-8b": {"repo": …, "file": …}}

Nothing of a host is needed. In the place of a file's path stands the name of its profile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..model_profiles import source
from .arguments import arguments, with_preset
from .instances import well_formed
from .models import router_model_problems
from .options import one_line, parsed
from .problems import form_problems
from .profiles import model_names
from .rules import Settings, instance_spec, router_model_spec

ROUTER_MODELS = 4  # models that a router holds at a time, where nobody says how many


def planned(instances: Any, settings: Settings) -> dict[str, Any]:
    """``models``: ``instance``, ``model``, ``argv`` and ``gpus`` of each that is served, a router's own among them.

    ``profiles`` are those that they need, ``servers`` by instance ``may_overcommit`` and ``at_once``, how many models
    one holds at a time. What is malformed is left out; ``problems`` has a line for each such thing.
    """
    names = model_names(instances)
    files = {name: {"path": name, "size_bytes": 0, "sha256": ""} for name in names}
    models = [
        {
            "instance": name,
            "model": str(values["model"]),
            "argv": arguments(with_preset(values, settings), files),
            "gpus": gpus,
        }
        for name, values, gpus in _served(instances)
        if "model" in values
    ]
    catalogue = well_formed(settings["models"])
    return {
        "models": models,
        "profiles": {name: source(catalogue[name]) for name in names if name in catalogue},
        "problems": list(_problems(instances, settings)),
        "servers": {name: _server(options, settings) for name, options in well_formed(instances).items()},
    }


def _problems(instances: Any, settings: Settings) -> Iterator[str]:
    if not isinstance(instances, Mapping):
        yield "llama_server_instances is no dict: write NAME: OPTIONS for each server"
        return
    for name, options in instances.items():
        for problem in [*form_problems(options), *_router_problems(options, settings)]:
            yield one_line(f"instance {name}: {problem}")


def _router_problems(options: Any, settings: Settings) -> Iterator[str]:
    values, _ = parsed(options, instance_spec()) if isinstance(options, Mapping) else ({}, [])
    for name, model in (values.get("models") or {}).items():
        yield from (f"model {name}: {problem}" for problem in router_model_problems(str(name), model, settings))


def _server(options: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    values, _ = parsed(options, instance_spec())
    models = values.get("models")
    served = len(models) if isinstance(models, Mapping) else 1
    most = values.get("models_max", ROUTER_MODELS)
    return {
        "may_overcommit": bool(values.get("allow_overcommit", settings["allow_overcommit"])),
        "at_once": min(served, most) if most > 0 else served,
    }


def _served(instances: Any) -> Iterator[tuple[str, dict[str, Any], Any]]:
    for name, options in well_formed(instances).items():
        values, _ = parsed(options, instance_spec())
        models = values.get("models")
        if not isinstance(models, Mapping):
            yield name, values, values.get("gpus")
            continue
        for id_, model in well_formed(models).items():
            yield f"{name}:{id_}", parsed(model, router_model_spec())[0], values.get("gpus")
