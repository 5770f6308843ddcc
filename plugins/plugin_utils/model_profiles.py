"""Profiles of llama_models: what is wrong with those that are wanted, found before a host is touched.

problems(names, catalogue, token)   one line each
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
ALWAYS = {"description", "sha256"}
REQUIRED = {"path": (), "url": ("sha256",), "repo": ("file",), "generator": ()}
GENERATORS = ("tiny",)
# One file of several that make up a model: of llama-gguf-split, or cut where its bytes happened to be.
PART = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.gguf$|\.gguf[.-](?:part|split)[\w.-]*$", re.IGNORECASE)


def profile_problem(profile: Any) -> str | None:
    """The first thing wrong with one profile, and what to do about it."""
    if not isinstance(profile, Mapping):
        return "is not a dict: write its source as keys under its name"
    known = set(ALWAYS).union(*KEYS.values())
    if unknown := sorted(str(key) for key in profile if key not in known):
        return f"has the unknown key {unknown[0]}: a profile has {', '.join(sorted(known))}"
    sources = [source for source in SOURCES if source in profile]
    if len(sources) != 1:
        what = f"has {len(sources)} sources ({' and '.join(sources)})" if sources else "has no source"
        return f"{what}: give it one of path, url + sha256, repo + file, generator"
    source = sources[0]
    if misplaced := sorted(set(profile) - KEYS[source] - ALWAYS):
        return f"has {misplaced[0]}, which says nothing beside {source}: remove it"
    for key, value in profile.items():
        if not isinstance(value, str) or not value.strip() or "\n" in value.strip():
            shown = f"a {key}" if key == "url" else f"{key}: {value!r}"
            return f"has {shown}, which is not one line of text: put it in quotes"
    if missing := [key for key in REQUIRED[source] if key not in profile]:
        return f"has {source} without {missing[0]}: add {missing[0]}"
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
    for source in ("url", "file"):
        if PART.search(re.split(r"[?#]", profile.get(source, ""))[0]):
            return (
                f"has one file of several in {source}: put all of them into a folder of the host, join those that were "
                "cut (….part1of2) with cat, and name the first in path"
            )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", profile.get("repo", "owner/name")):
        return f"has repo: {profile['repo']}: write it as owner/name, and the file in file"
    if profile.get("generator", "tiny") not in GENERATORS:
        return f"has generator: {profile['generator']}: the only one is {GENERATORS[0]}"
    return None


def _problems(names: Any, catalogue: Any, token: str | None) -> Iterator[str]:
    """Problems of the wanted names, one line each."""
    if not isinstance(catalogue, Mapping):
        yield "llama_models is no dict: write NAME: SOURCE for each model"
        return
    for name in names:
        if name not in catalogue and name in map(str, catalogue):
            yield f"model {name} in llama_models has a name that is no text for YAML: put it in quotes"
        elif name not in catalogue:
            known = ", ".join(sorted(map(str, catalogue))) or "none"
            yield f"there is no model {name} in llama_models: use one of {known}, or add it there"
        elif not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            yield f"model {name!r} can't be a file's name: use letters, digits, '.', '_' and '-'"
        elif problem := profile_problem(catalogue[name]):
            yield f"model {name} in llama_models {problem}"
        elif "repo" in catalogue[name] and (problem := token_problem(token)):
            yield f"model {name} comes from the hub, and {problem}"


def problems(names: Any, catalogue: Any, token: str | None = None) -> list[str]:
    """Problems of the profiles ``names`` of ``catalogue``; an empty list when nothing is.

    ``token``: the one for the hub, of which nothing is repeated.
    """
    return [one_line(problem, token) for problem in _problems(names, catalogue, token)]
