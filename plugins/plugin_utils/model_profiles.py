"""Profiles of llama_models: the catalogue, and what is wrong with those that are wanted, before a host is touched.

catalogue(llama_models, llama_own_models)   the profiles that there are
problems(names, catalogue, token)           one line each
source(profile)                             the part of it that says where the file comes from
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..module_utils.gguf_model.address import asked
from ..module_utils.gguf_model.errors import one_line
from ..module_utils.gguf_model.hub import token_problem

SOURCES = ("path", "url", "repo", "generator")
KEYS = {
    "path": {"path"},
    "url": {"url", "sha256"},
    "repo": {"repo", "file", "revision"},
    "generator": {"generator"},
}
ALWAYS = {"description", "sha256", "recommended"}
NOT_OF_FILES = {"recommended"}
"""Keys about what is served from a file, which role llama_server knows; nothing of the file changes with them."""
REQUIRED = {"path": (), "url": ("sha256",), "repo": ("file",), "generator": ()}
GENERATORS = ("tiny",)
# One file of several that make up a model: of llama-gguf-split, or cut where its bytes happened to be.
PART = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.gguf$|\.gguf[.-](?:part|split)[\w.-]*$", re.IGNORECASE)


def catalogue(models: Any, own: Any) -> Any:
    """The profiles that there are: the user's own beside the project's, of which they replace those of the same name.

    What is no dict is given back as it is, and told by :func:`problems`.
    """
    if not isinstance(models, Mapping) or not own:
        return models
    return {**models, **own} if isinstance(own, Mapping) else own


def source(profile: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a profile that says where the file comes from, and what it must be."""
    return {key: value for key, value in profile.items() if key not in NOT_OF_FILES}


def profile_problem(profile: Any) -> str | None:
    """The first thing wrong with one profile, and what to do about it."""
    if not isinstance(profile, Mapping):
        return "is not a dict: write its source as keys under its name"
    known = set(ALWAYS).union(*KEYS.values())
    if unknown := sorted(str(key) for key in profile if key not in known):
        return f"has the unknown key {unknown[0]}: a profile has {', '.join(sorted(known))}"
    sources = [name for name in SOURCES if name in profile]
    if len(sources) != 1:
        what = f"has {len(sources)} sources ({' and '.join(sources)})" if sources else "has no source"
        return f"{what}: give it one of path, url + sha256, repo + file, generator"
    chosen = sources[0]
    if misplaced := sorted(set(profile) - KEYS[chosen] - ALWAYS):
        return f"has {misplaced[0]}, which says nothing beside {chosen}: remove it"
    for key, value in source(profile).items():
        if not isinstance(value, str) or not value.strip() or "\n" in value.strip():
            shown = f"a {key}" if key == "url" else f"{key}: {value!r}"
            return f"has {shown}, which is not one line of text: put it in quotes"
    if missing := [key for key in REQUIRED[chosen] if key not in profile]:
        return f"has {chosen} without {missing[0]}: add {missing[0]}"
    return value_problem(profile)


def value_problem(profile: Mapping[str, str]) -> str | None:
    """The first problem of the values of a profile whose keys are right; no address is repeated, it may be secret."""
    if not re.fullmatch("[0-9a-fA-F]{64}", profile.get("sha256", "0" * 64)):
        return f"has sha256: {profile['sha256']}, which is not 64 hexadecimal digits: copy it again"
    if not profile.get("path", "/").startswith(("/", "~")):
        return f"has path: {profile['path']}, which is relative: write it from / on, as it is on the host"
    try:
        asked(profile.get("url", "http://host"))
    except ValueError as error:
        return f"has a url that can't be asked for: {error}; write http:// or https://, or path for a file on the host"
    for key in ("url", "file"):
        if PART.search(re.split(r"[?#]", profile.get(key, ""))[0]):
            return (
                f"has one file of several in {key}: put all of them into a folder of the host, join those that were "
                "cut (….part1of2) with cat, and name the first in path"
            )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", profile.get("repo", "owner/name")):
        return f"has repo: {profile['repo']}: write it as owner/name, and the file in file"
    if profile.get("generator", "tiny") not in GENERATORS:
        return f"has generator: {profile['generator']}: the only one is {GENERATORS[0]}"
    return None


def _problems(names: Any, profiles: Any, token: str | None) -> Iterator[str]:
    """Problems of the wanted names, one line each."""
    if not isinstance(profiles, Mapping):
        yield "llama_models, or llama_own_models, is no dict: write NAME: SOURCE for each model"
        return
    for name in names:
        if name not in profiles and name in map(str, profiles):
            yield f"model {name} in llama_models has a name that is no text for YAML: put it in quotes"
        elif name not in profiles:
            known = ", ".join(sorted(map(str, profiles))) or "none"
            yield f"there is no model {name} in llama_models: use one of {known}, or add it there"
        elif not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            yield f"model {name!r} can't be a file's name: use letters, digits, '.', '_' and '-'"
        elif problem := profile_problem(profiles[name]):
            yield f"model {name} in llama_models {problem}"
        elif "repo" in profiles[name] and (problem := token_problem(token)):
            yield f"model {name} comes from the hub, and {problem}"


def problems(names: Any, profiles: Any, token: str | None = None) -> list[str]:
    """Problems of the profiles ``names``, one line each; an empty list when nothing is.

    ``token``: the one for the hub, of which nothing is repeated.
    """
    return [one_line(problem, token) for problem in _problems(names, profiles, token)]
