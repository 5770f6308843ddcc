"""Profiles of the catalogue beyond where a model is: recommended options, and other quantisations of it.

recommended_words(catalogue["gpt-oss-20b-mxfp4"], ["-c", "4096"])        ["--n-gpu-layers", "999"]
other_quantisations("gpt-oss-20b-mxfp4", catalogue)                      ["gpt-oss-20b-q4-k-m", "gpt-oss-20b-q6-k"]
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nexus_tasks.hostlib import argv
from nexus_tasks.hostlib.llama_server_flags import canonical

from .model_sources import ON_HUB
from .server_options import field_of, is_known

Profiles = Mapping[str, Mapping[str, Any]]


def recommended_words(profile: Mapping[str, Any], given: Sequence[str]) -> list[str]:
    """The options that a profile recommends, those that change buffers and are not given, as llama-server's words."""
    options = profile.get("recommended")
    if not isinstance(options, Mapping):
        return []
    said = {field_of(canonical(option.flag)) for option in argv.options(given)}
    words: list[str] = []
    for name, value in options.items():
        flag = "--" + str(name).replace("_", "-")
        if value is False:
            flag, value = f"--no-{flag[2:]}", True
        if is_known(flag) and field_of(flag) not in said and value is not None:
            words += [flag] if value is True else [flag, _text(value)]
    return words


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def other_quantisations(model: str, catalogue: Profiles) -> list[str]:
    """Profiles that hold the same model otherwise quantised: of its repository, or of its name without the type.

    Args:
        model: a profile's name, or ``REPO:FILE`` of the hub.
    """
    own = catalogue.get(model, {})
    on_hub = ON_HUB.fullmatch(model)
    repo = on_hub["repo"] if on_hub else own.get("repo")
    base = _base(model, own)
    if on_hub:
        base = next((_base(*one) for one in _of_repo(repo, catalogue) if _base(*one)), None)
    return [
        name
        for name, profile in catalogue.items()
        if name != model and _files(profile) != _files(own)
        and ((repo and profile.get("repo") == repo) or (base and _base(name, profile) == base))
        and not (on_hub and on_hub["file"] in _files(profile))
    ]  # fmt: skip


def _of_repo(repo: Any, catalogue: Profiles) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((name, profile) for name, profile in catalogue.items() if profile.get("repo") == repo)


def _base(name: str, profile: Mapping[str, Any]) -> str | None:
    """A profile's name without its quantisation; None where the one does not end in the other."""
    kind = re.sub(r"[^a-z0-9]+", "-", str(profile.get("quantization") or "").lower()).strip("-")
    plain = re.sub(r"[^a-z0-9.]+", "-", name.lower())
    return plain[: -len(kind) - 1] if kind and plain.endswith(f"-{kind}") and len(plain) > len(kind) + 1 else None


def _files(profile: Mapping[str, Any]) -> list[Any]:
    """The words that say which files a profile means."""
    listed = profile.get("files")
    one = [profile.get(key) for key in ("repo", "file", "url", "path")]
    return [*one, *(listed if isinstance(listed, list) else ())]
