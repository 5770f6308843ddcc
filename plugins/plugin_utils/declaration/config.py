"""Configuration of instances, as a host is given it: commands, files, and what to prove."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .arguments import arguments, section, with_preset
from .environment import environment_of
from .instances import well_formed
from .options import mode_of, parsed, uses_gpu
from .profiles import beside, file_of
from .proof import proof_limits
from .rules import Options, Settings, instance_spec, router_model_spec

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where such a server is asked from its own host


def declaration(
    instances: Mapping[str, Any],
    settings: Settings,
    release: Mapping[str, Any],
    files: Mapping[str, Any],
    chat_templates: Mapping[str, str],
) -> dict[str, Any]:
    """Declaration for a host, by instance: ``config``, ``files`` and ``proof``. Holds no key.

    Args:
        instances: llama_server_instances, in which host_problems finds nothing.
        release: the fact of role llama_cpp.
        files: the fact of role gguf_model.
        chat_templates: texts by name.

    Raises:
        AnsibleFilterError: a model has no file.
    """
    return {
        name: instance_declaration(name, options, settings, release, files, chat_templates)
        for name, options in well_formed(instances).items()
    }


def instance_declaration(
    name: str,
    options: Mapping[str, Any],
    settings: Settings,
    release: Mapping[str, Any],
    files: Mapping[str, Any],
    chat_templates: Mapping[str, str],
) -> dict[str, Any]:
    """Declaration of one instance; the arguments are those of :func:`declaration`."""
    values, _ = parsed(options, instance_spec())
    models = {str(id_): parsed(model, router_model_spec())[0] for id_, model in values.get("models", {}).items()}
    mode = mode_of(values)
    built = release_facts(release)
    served = served_models(models, built["backend"], files)
    only = None if models else file_of(values["model"], files)
    sides = [file for one in [values, *models.values()] for file in beside(one, files)]
    side = list({(file["name"], file["path"]): file for file in sides}.values())
    size = sum(file["size_bytes"] or 0 for file in [*([only] if only else []), *served.values(), *side])
    runtime = str(values.get("runtime", settings["runtime"]))
    texts = {}
    if "chat_template" in values:
        texts["chat_template.jinja"] = chat_templates[values["chat_template"]]
    if models:
        sections = [section(id_, with_preset(model, settings), files) for id_, model in models.items()]
        texts["models.ini"] = "\n".join(sections)
    config = {
        "name": name,
        "runtime": runtime,
        "argv": [
            f"{release['path']}/bin/llama-server",
            *arguments(with_preset(values, settings), files, settings["flags"]),
        ],
        "environment": environment_of(values, runtime),
        "host": values["host"],
        "port": values["port"],
        "local_url": local_url(values),
        "model": only,
        "models": served,
        "side_models": side,
        "release": built,
        "mode": mode,
        "has_template": "chat_template.jinja" in texts,
        **{option: values.get(option) for option in ("ctx_size", "parallel", "n_gpu_layers")},
        "key_names": sorted(map(str, values.get("api_keys", {}))),
        "gpus": values.get("gpus"),
        "uses_gpu": any(model["uses_gpu"] for model in served.values())
        if models
        else uses_gpu(values, built["backend"]),
        "image": dict(settings["docker_image"]) if runtime == "docker" else None,
    }
    return {"config": config, "files": texts, "proof": proof_limits(values, settings, size, mode)}


def release_facts(release: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of the host's release: ``name``, ``path``, ``ref``, ``commit`` and ``backend``."""
    inputs = (release.get("manifest") or {}).get("inputs") or {}
    return {
        "name": release["name"],
        "path": release["path"],
        "ref": inputs.get("ref", ""),
        "commit": inputs.get("commit", ""),
        # In check mode there is no manifest before the first build; the name says it too.
        "backend": inputs.get("backend") or ("cuda" if "cuda" in release["name"] else "cpu"),
    }


def served_models(models: Mapping[str, Options], backend: str, files: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A router's models by the names that requests use: their files, and what each is proven by."""
    return {
        id_: {
            **{key: file_of(model["model"], files)[key] for key in ("path", "size_bytes", "sha256")},
            "side_models": beside(model, files), "mode": mode_of(model), "n_gpu_layers": model.get("n_gpu_layers"),
            "uses_gpu": uses_gpu(model, backend), "load_on_startup": bool(model.get("load_on_startup")),
        }
        for id_, model in models.items()
    }  # fmt: skip


def local_url(values: Options) -> str:
    """The address at which the server is asked from its own host."""
    address = str(EVERYWHERE.get(values["host"], values["host"]))
    return f"http://{f'[{address}]' if ':' in address else address}:{values['port']}"
