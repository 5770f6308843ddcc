"""Profiles of llama_models and chat templates that instances name, and the files of profiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from .instances import well_formed
from .rules import PROFILES, Options


def model_names(instances: Any) -> list[str]:
    """The profiles of llama_models that instances need, each once; what is malformed is told by the problems."""
    names: dict[str, None] = {}
    for options in well_formed(instances).values():
        names.update(dict.fromkeys(profiles(options)))
        for model in well_formed(options.get("models")).values():
            names.update(dict.fromkeys(profiles(model)))
    return list(names)


def chat_template_names(instances: Any) -> list[str]:
    """The templates that instances choose."""
    return sorted({choice["name"] for choice in chosen_chat_templates(instances)})


def chosen_chat_templates(instances: Any) -> list[dict[str, Any]]:
    """The templates that instances choose: ``name``, and ``kwargs``, what the server hands to it with each prompt."""
    chosen: list[dict[str, Any]] = []
    for options in well_formed(instances).values():
        if options.get("chat_template") is not None:
            kwargs = options.get("chat_template_kwargs")
            choice = {
                "name": str(options["chat_template"]),
                "kwargs": dict(kwargs) if isinstance(kwargs, Mapping) else {},
            }
            if choice not in chosen:
                chosen.append(choice)
    return chosen


def profiles(options: Mapping[str, Any]) -> Iterator[str]:
    """The profiles that one model needs: its own, its projector, its draft and its adapters."""
    yield from (str(options[name]) for name in PROFILES if options.get(name))
    adapters = options.get("lora")
    for adapter in adapters if isinstance(adapters, list) else ():
        if isinstance(adapter, Mapping) and adapter.get("profile"):
            yield str(adapter["profile"])


def beside(values: Options, files: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The files that a model needs beside its own first one, those of a model in several among them."""
    own = values.get("model")
    return [file for name in dict.fromkeys(profiles(values)) for file in files_of(name, files)[name == own :]]


def files_of(profile: str, files: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The files of a profile, each as :func:`file_of` has the first."""
    further = files.get(profile, {}).get("parts", [])
    return [file_of(profile, files), *({"name": profile, **part} for part in further)]


def file_of(profile: str, files: Mapping[str, Any]) -> dict[str, Any]:
    """The name, path, size and hash of a profile's file. Raises AnsibleFilterError where it is not known."""
    try:
        return {"name": profile, **{key: files[profile][key] for key in ("path", "size_bytes", "sha256")}}
    except KeyError:
        raise AnsibleFilterError(
            f"model {profile} is not among the facts of role gguf_model: run playbooks/model.yml in the same run"
        ) from None
