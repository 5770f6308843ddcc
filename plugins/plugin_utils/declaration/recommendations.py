"""Recommendations of model profiles: options that an instance has unless it says otherwise.

    with_recommendations(llama_server_instances, settings)       the same instances, completed

A profile of llama_models holds them in ``recommended``. An instance that names the profile gets each of them but those
that it sets itself, to null as well, and those that what it sets makes meaningless.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...module_utils.hostlib.llama_server_flags import NOT_OF_ROUTERS
from .options import parsed
from .rules import PROFILES, SAMPLING, Options, Settings, instance_spec, router_model_spec

KEY = "recommended"
_OTHERS = {"load_on_startup", "lora", *PROFILES}  # they name other models, or are about a router
_CHAT = ("chat_template", "chat_template_kwargs", "sampling_preset", *SAMPLING, "min_decode_tps")
# What an instance sets, and the recommendations that then say nothing, or something else than was meant.
GIVES_WAY = {
    "sampling_preset": SAMPLING,
    "jinja": ("chat_template", "chat_template_kwargs"),
    "chat_template": ("chat_template_kwargs",),
    "embeddings": _CHAT,
    "reranking": _CHAT,
    "device": ("n_gpu_layers",),
    "fit": ("n_gpu_layers",),
}
# Recommendations that are about GPUs, for hosts that serve from one: a speed from a processor is another.
ON_GPUS = ("n_gpu_layers", "min_decode_tps")


def with_recommendations(instances: Any, settings: Settings) -> Any:
    """The instances, and a router's models, with what their profiles recommend; what is malformed stays as it is.

    Args:
        instances: llama_server_instances.
        settings: ``models`` is the catalogue, ``gpu`` says whether servers use a GPU.
    """
    if not isinstance(instances, Mapping):
        return instances
    return {name: _completed(options, settings) for name, options in instances.items()}


def recommended(model: Any, settings: Settings) -> Options:
    """The options that a profile recommends, those that are well-formed; empty for an unknown profile."""
    models = settings.get("models")
    profile = models.get(model) if isinstance(models, Mapping) and isinstance(model, str) else None
    options = profile.get(KEY) if isinstance(profile, Mapping) else None
    if not isinstance(options, Mapping):
        return {}
    values, _ = parsed(_allowed(options), _spec())
    passed_over = () if settings["gpu"] else ON_GPUS
    return {name: value for name, value in values.items() if name in options and name not in passed_over}


def recommendation_problems(settings: Settings) -> Iterator[str]:
    """Problems of the recommendations in the catalogue, one line each."""
    models = settings.get("models")
    for name, profile in models.items() if isinstance(models, Mapping) else ():
        options = profile.get(KEY) if isinstance(profile, Mapping) else None
        where = f"model {name} in llama_models: {KEY}"
        if options is None:
            continue
        if not isinstance(options, Mapping):
            yield f"{where} is no dict: write options of an instance below it"
            continue
        for option in sorted({*map(str, options)} & _OTHERS):
            yield f"{where} has {option}, which is not about this model alone: set it in the instances"
        yield from (f"{where}: {problem}" for problem in parsed(_allowed(options), _spec())[1])


def _completed(options: Any, settings: Settings, spec: Options | None = None) -> Any:
    """An instance, or a router's model, with what its profile recommends, as far as ``spec`` has such an option."""
    if not isinstance(options, Mapping):
        return options
    if isinstance(options.get("models"), Mapping):
        ours = router_model_spec()
        models = {name: _completed(one, settings, ours) for name, one in options["models"].items()}
        return {**options, "models": models}
    theirs = recommended(options.get("model"), settings)
    gone = {name for said, names in GIVES_WAY.items() if options.get(said) is not None for name in names}
    taken = {name: value for name, value in theirs.items() if name not in gone and (spec is None or name in spec)}
    return {**taken, **options}


def _spec() -> Options:
    ours = instance_spec()
    about_models = {**router_model_spec(), **{name: ours[name] for name in NOT_OF_ROUTERS}}
    return {name: entry for name, entry in about_models.items() if name not in _OTHERS}


def _allowed(options: Mapping[Any, Any]) -> Options:
    return {str(name): value for name, value in options.items() if name not in _OTHERS}
