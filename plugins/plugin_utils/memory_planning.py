"""Plans of memory for what is to start on a host, by what the inventory declares and what the host tells.

    paths = paths_on_host(planned, files, mirror)       the models whose headers the host is asked for
    plan_host(Question(…))                              {"plans": …, "refused": […], "warnings": […], …}

The rules are nexus_tasks.model_store's, which the environment of ansible-playbook has. Where it lacks them, that is
said, and nothing is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .declaration.options import one_line
from .declaration.rules import RULES


@dataclass(frozen=True)
class Question:
    """A host and what is to start there."""

    host: str
    declared: Mapping[str, Any]
    """By instance its declaration, as role llama_server renders it."""
    planned: Mapping[str, Any]
    """What plans need of the same: filter llama_server_planned."""
    files: Mapping[str, Any]
    """The fact of role gguf_model."""
    found: Mapping[str, Any]
    """The result of module llama_server_memory."""
    gpu_memory: Sequence[float] | None = None
    """MiB of each GPU, where they are declared."""
    host_memory: float | None = None
    """MiB of the host's own, where that is declared."""
    mirror: str = ""
    cache: str = ""
    """The controller's folder of models."""
    seen: Sequence[str] = field(default=())
    """Instances of which all was said already."""


def is_missing(file: Mapping[str, Any]) -> bool:
    """True for a model that is not on the host yet."""
    return file.get("sha256") is None


def paths_on_host(planned: Mapping[str, Any], files: Mapping[str, Any], mirror: str) -> dict[str, str]:
    """By profile the path at which the host has the file, the first of several: its own, or one to be copied."""
    found = {}
    for name, profile in planned["profiles"].items():
        file = files.get(name, {})
        address = _mirrored(profile, mirror) or _first(profile, "url", "urls")
        if file and not is_missing(file):
            found[name] = str(file["path"])
        elif "path" in profile:
            found[name] = str(profile["path"])
        elif address.startswith("file:"):
            found[name] = unquote(urlsplit(address).path)
    return found


def _first(profile: Mapping[str, Any], one: str, several: str) -> str:
    listed = profile.get(several)
    first = listed[0] if listed else profile.get(one)
    return str(first.get(one, "") if isinstance(first, Mapping) else first or "")


def _mirrored(profile: Mapping[str, Any], mirror: str) -> str:
    file = _first(profile, "file", "files")
    return f"{mirror.rstrip('/')}/{profile['repo']}/{file}" if mirror and "repo" in profile and file else ""


def plan_host(question: Question) -> dict[str, Any]:
    """The answer: ``plans`` by instance, and ``seen``, the instances of which all is said then; ``fitting``,
    ``refused``, ``notes`` and ``warnings`` are lists of lines.

    Raises ImportError where the rules are not there.
    """
    from nexus_tasks.core.errors import UsageError
    from nexus_tasks.model_store import admission

    models = _Models(question)
    servers: list[admission.Server] = []
    unplanned: dict[str, str] = {}
    starting = [name for name in question.declared if not question.found["servers"].get(name, {}).get("stays")]
    for name in starting:
        try:
            servers.append(_server(name, question, models))
        except UsageError as error:
            unplanned[name] = f"{error.message}; {error.hint}"
    found = question.found
    given_back = sum(server["host_mib"] for server in found["servers"].values() if server["ends"])
    declared = [] if question.host_memory is None else [question.host_memory]
    answer = admission.admit(servers, min([found["available_mib"] + given_back, *declared]), in_words)
    unplanned |= answer.unplanned
    later = [name for name in unplanned if _is_awaited(name, question)]
    written = [name for name in later if _is_awaited(name, question, _is_written)]
    once = "; it is planned from the file, once that is there"
    not_planned = {
        name: f"can't be planned: {why}{once if name in later else ''}"
        for name, why in unplanned.items()
        if name not in written
    }

    def lines(said: Mapping[str, str]) -> list[str]:
        news = {name: text for name, text in said.items() if name not in question.seen}
        return [f"instance {name} on {question.host} {one_line(text)}" for name, text in news.items()]

    return {
        "plans": answer.plans,
        "fitting": lines(answer.fitting),
        "refused": lines(answer.refused),
        "notes": lines(dict.fromkeys(written, "is planned once its model is written")),
        "warnings": [*lines(not_planned), *lines(answer.warnings)],
        "seen": sorted({*question.seen, *starting} - set(later)),
    }


def _is_awaited(name: str, question: Question, how: Callable[[Mapping[str, Any]], bool] = bool) -> bool:
    """True for an instance of which a model is not there yet that is of such a kind."""
    models = [entry for entry in question.planned["models"] if entry["instance"].partition(":")[0] == name]
    profiles = question.planned["profiles"]
    needed = {word for entry in models for word in entry["argv"] if word in profiles and word in question.files}
    return any(how(profiles[word]) for word in needed if is_missing(question.files[word]))


def _is_written(profile: Mapping[str, Any]) -> bool:
    """True for a model that the role itself writes."""
    return "generator" in profile


def in_words(options: Sequence[str]) -> str:
    """Options of llama-server as those of an instance: ``ctx_size: 4096 and parallel: 2``."""
    spellings = RULES.spellings()
    pairs = zip(options[::2], options[1::2], strict=True)
    return " and ".join(f"{spellings.get(flag, flag)}: {value}" for flag, value in pairs)


# ---- Servers


def _server(name: str, question: Question, models: _Models) -> Any:
    """A server with its models. Raises UsageError where one can't be read, or where nobody tells its GPUs."""
    from nexus_tasks.model_store import admission, server_options

    entries = [entry for entry in question.planned["models"] if entry["instance"].partition(":")[0] == name]
    loaded = []
    for entry in entries:
        options, _ = server_options.parse_options(entry["argv"])
        draft, projector = (models.shape(one) if one else None for one in (options.model_draft, options.mmproj))
        id_ = entry["instance"].partition(":")[2]
        loaded.append(admission.Model(id_, tuple(entry["argv"]), models.shape(entry["model"]), draft, projector))
    about = question.planned["servers"][name]
    config = question.declared[name]["config"]
    gpus = _gpus(config, question) if config["uses_gpu"] else ()
    return admission.Server(name, tuple(loaded), gpus, about["at_once"], about["may_overcommit"])


def _gpus(config: Mapping[str, Any], question: Question) -> tuple[Any, ...]:
    """The GPUs that a server sees, in its order. Raises UsageError where their memory is not known."""
    from nexus_tasks.core.errors import UsageError
    from nexus_tasks.model_store import admission

    there = _known_gpus(question)
    if not there:
        why = question.found["gpus_why"] or "nvidia-smi does not tell the memory of a GPU"
        raise UsageError(f"nobody tells the memory of its GPUs ({why})", hint="set llama_server_gpu_memory")
    visible = config["environment"].get("CUDA_VISIBLE_DEVICES", "")
    chosen = config["gpus"] or [part.strip() for part in visible.split(",") if part.strip()]
    if not chosen:
        return tuple(admission.HostGpu(**gpu) for _, gpu in there)
    found = [next((gpu for index, gpu in there if one in (index, gpu["key"])), None) for one in chosen]
    if None in found:
        missing = chosen[found.index(None)]
        raise UsageError(
            f"nobody tells the memory of GPU {missing}", hint="correct gpus, or set llama_server_gpu_memory"
        )
    return tuple(admission.HostGpu(**gpu) for gpu in found if gpu)


def _known_gpus(question: Question) -> list[tuple[str, dict[str, Any]]]:
    """GPUs of the host with their indexes: as it tells, and as declared where that is less, or all that is known."""
    declared = [float(mib) for mib in question.gpu_memory or ()]
    told = {gpu["index"]: gpu for gpu in question.found["gpus"]}
    indexes = list(map(str, range(len(declared)))) if question.gpu_memory is not None else list(told)
    found = []
    for index in indexes:
        gpu = told.get(index, {})
        most = [declared[int(index)]] if question.gpu_memory is not None else []
        free = gpu.get("free_mib")
        if free is None and not most:
            return []  # which of them a server would take, nobody knows
        key = gpu.get("uuid", index)
        servers = question.found["servers"].values()
        held = sum(server["gpus_mib"].get(key, 0.0) for server in servers if server["ends"])
        room = min([*most, *([] if free is None else [free + held])])
        now = min([*most, *([] if free is None else [free])])
        found.append((index, {"key": key, "name": gpu.get("name", ""), "room_mib": room, "free_mib": now}))
    return found


# ---- Models


class _Models:
    """Shapes of models by their profiles' names: from the host, the controller's own files, or where they come from."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._paths = paths_on_host(question.planned, question.files, question.mirror)
        self._known: dict[str, Any] = {}

    def shape(self, name: str) -> Any:
        """The shape of a model. Raises UsageError where its header can't be read."""
        if name not in self._known:
            self._known[name] = self._on_host(name) if name in self._paths else self._elsewhere(name)
        return self._known[name]

    def _on_host(self, name: str) -> Any:
        from nexus_tasks.core.errors import UsageError
        from nexus_tasks.hostlib import gguf, gguf_json, model_shape

        found = self._question.found["headers"][self._paths[name]]
        try:
            if "problem" in found:
                raise gguf.GgufError(found["problem"])
            return model_shape.shape_of([gguf_json.header_from_json(file) for file in found["files"]])
        except gguf.GgufError as error:
            what, _, hint = str(error).rpartition("; ")
            raise UsageError(what or hint, hint=hint if what else "take another file") from error

    def _elsewhere(self, name: str) -> Any:
        from nexus_tasks.core.errors import UsageError
        from nexus_tasks.model_store.model_sources import open_model

        profile = self._question.planned["profiles"][name]
        several = len(profile.get("files") or profile.get("urls") or ())
        own = Path(self._question.cache) / (f"{name}-00001-of-{several:05}.gguf" if several else f"{name}.gguf")
        if self._question.cache and own.is_file():
            return open_model(str(own), {})
        if "generator" in profile:
            raise UsageError(f"model {name} is written on the spot", hint="its header is known afterwards")
        mirrored = _mirrored(profile, self._question.mirror)
        return open_model(mirrored or name, {} if mirrored else self._question.planned["profiles"])
