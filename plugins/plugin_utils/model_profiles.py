"""Profiles of llama_models: the catalogue, and what is wrong with those that are wanted, before a host is touched.

catalogue(llama_models, llama_own_models)   the profiles that there are
problems(names, catalogue, token)           one line each
source(profile)                             the part of it that says where the files come from, for module gguf_file
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..module_utils.gguf_model.address import asked
from ..module_utils.gguf_model.errors import one_line
from ..module_utils.gguf_model.hub_token import token_problem

SOURCES = ("path", "url", "urls", "repo", "generator")
KEYS = {
    "path": {"path", "sha256"},
    "url": {"url", "sha256"},
    "urls": {"urls"},
    "repo": {"repo", "file", "files", "revision", "sha256"},
    "generator": {"generator", "sha256"},
}
ABOUT = {"description", "quantization"}
"""Keys for whoever chooses among models, each a line of text."""
NOT_OF_FILES = {*ABOUT, "tool_calls", "recommended"}
"""Keys about the model and what is served from it; nothing of its files changes with them."""
SEVERAL = {"urls": "url", "files": "file"}
"""Lists of a model's files, and the key by which each is called: a dict with it and sha256."""
GENERATORS = ("tiny",)
SHA256 = re.compile("[0-9a-fA-F]{64}")
# One file of several that make up a model, as llama-gguf-split names it, or cut where its bytes happened to be.
PART = re.compile(r"-(\d{5})-of-(?!00001)(\d{5})\.gguf$", re.IGNORECASE)
CUT = re.compile(r"\.gguf[.-](?:part|split)[\w.-]*$", re.IGNORECASE)
CHOICES = "path, url + sha256, urls, repo + file, repo + files, generator"


def catalogue(models: Any, own: Any) -> Any:
    """The profiles that there are: the user's own beside the project's, of which they replace those of the same name.

    What is no dict is given back as it is, and told by :func:`problems`.
    """
    if not isinstance(models, Mapping) or not own:
        return models
    return {**models, **own} if isinstance(own, Mapping) else own


def source(profile: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a profile that says where the files come from and what they must be, each of ``files`` as a dict."""
    said = {key: value for key, value in profile.items() if key not in NOT_OF_FILES}
    if "files" in said:
        said["files"] = _entries("files", said["files"])
    return said


def profile_problem(profile: Any) -> str | None:
    """The first thing wrong with one profile, and what to do about it."""
    if not isinstance(profile, Mapping):
        return "is not a dict: write its source as keys under its name"
    known = set(NOT_OF_FILES).union(*KEYS.values())
    if unknown := sorted(str(key) for key in profile if key not in known):
        return f"has the unknown key {unknown[0]}: a profile has {', '.join(sorted(known))}"
    sources = [name for name in SOURCES if name in profile]
    if len(sources) != 1:
        what = f"has {len(sources)} sources ({' and '.join(sources)})" if sources else "has no source"
        return f"{what}: give it one of {CHOICES}"
    chosen = sources[0]
    if misplaced := sorted(set(profile) - KEYS[chosen] - NOT_OF_FILES):
        return f"has {misplaced[0]}, which says nothing beside {chosen}: remove it"
    said = {key: value for key, value in profile.items() if key in ABOUT or key not in NOT_OF_FILES | set(SEVERAL)}
    if problem := _text_problem(said):
        return problem
    if not isinstance(profile.get("tool_calls", False), bool):
        return f"has tool_calls: {profile['tool_calls']!r}: say true or false, whether the model calls tools"
    if chosen == "url" and "sha256" not in profile:
        return "has url without sha256: add sha256"
    if chosen == "repo" and ("file" in profile) == ("files" in profile):
        what = "both file and files" if "file" in profile else "repo without file"
        return f"has {what}: name the file in file, or all files of a model in several in files"
    for key in SEVERAL:
        if key in profile and (problem := _several_problem(key, profile[key])):
            return problem
    if "files" in profile and "sha256" in profile:
        return "has sha256 beside files: write it for each, as {file: NAME, sha256: …}, or remove it"
    return value_problem(profile)


def _text_problem(said: Mapping[str, Any]) -> str | None:
    """The first value that should be one line of text and is not; no address is repeated, it may be secret."""
    for key, value in said.items():
        if not isinstance(value, str) or not value.strip() or "\n" in value.strip():
            shown = f"a {key}" if key == "url" else f"{key}: {value!r}"
            return f"has {shown}, which is not one line of text: put it in quotes"
    return None


def _entries(key: str, entries: Sequence[Any]) -> list[Any]:
    """The files of a list of them, each as a dict; a name alone is that of a file of the repository."""
    return [{"file": entry} if key == "files" and isinstance(entry, str) else entry for entry in entries]


def _several_problem(key: str, entries: Any) -> str | None:
    """The first problem of a list of a model's files."""
    called = SEVERAL[key]
    what = "{url: ADDRESS, sha256: …}" if key == "urls" else "the name of a file, or {file: NAME, sha256: …}"
    if not isinstance(entries, list) or len(entries) < 2:
        return f"has {key}, which is no list of two or more: write {called} for a model in one file"
    names = []
    for number, entry in enumerate(_entries(key, entries), 1):
        keys = {called, "sha256"} if isinstance(entry, Mapping) and (key == "urls" or "sha256" in entry) else {called}
        if not isinstance(entry, Mapping) or set(entry) != keys:
            return f"has {key} whose entry {number} is not {what}: correct it"
        if problem := _text_problem(entry) or _entry_problem(entry, f"{key}, entry {number}"):
            return problem
        names.append(entry[called])
    return _order_problem(key, names)


def _order_problem(key: str, names: Sequence[str]) -> str | None:
    """The problem of files that are not all of a model, each once and in their order, as far as their names tell."""
    if len(set(names)) < len(names):
        return f"has one of {key} twice: name each file of the model once"
    for number, name in enumerate(names, 1):
        part = PART.search(re.split(r"[?#]", name)[0])
        if part and (int(part[1]), int(part[2])) != (number, len(names)):
            return (
                f"has {key} whose entry {number} of {len(names)} is file {int(part[1])} of {int(part[2])}: name all "
                "files of the model, in their order"
            )
    return None


def value_problem(profile: Mapping[str, Any]) -> str | None:
    """The first problem of the values of a profile whose keys are right; no address is repeated, it may be secret."""
    if not profile.get("path", "/").startswith(("/", "~")):
        return f"has path: {profile['path']}, which is relative: write it from / on, as it is on the host"
    if problem := _entry_problem(profile, "it"):
        return problem
    for key, several in (("url", "urls"), ("file", "files")):
        if PART.search(re.split(r"[?#]", profile.get(key, ""))[0]):
            return f"has one file of several in {key}: name all of them, in their order, in {several}"
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", profile.get("repo", "owner/name")):
        return f"has repo: {profile['repo']}: write it as owner/name, and the file in file"
    if profile.get("generator", "tiny") not in GENERATORS:
        return f"has generator: {profile['generator']}: the only one is {GENERATORS[0]}"
    return None


def _entry_problem(entry: Mapping[str, Any], where: str) -> str | None:
    """The first problem of what is said of one file: a hash, an address or a name."""
    at = "" if where == "it" else f" in {where}"
    if not SHA256.fullmatch(entry.get("sha256", "0" * 64)):
        return f"has sha256: {entry['sha256']}{at}, which is not 64 hexadecimal digits: copy it again"
    try:
        asked(entry.get("url", "http://host"))
    except ValueError as error:
        return (
            f"has a url{at} that can't be asked for: {error}; write http://, https:// or file:///, or path for a file "
            "that is used where it lies"
        )
    for key in ("url", "file"):
        if CUT.search(re.split(r"[?#]", entry.get(key, ""))[0]):
            return (
                f"has a file that was cut (….part1of2) in {key}{at}: join all of its pieces with cat in a folder of "
                "the host, and name the file in path"
            )
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
        elif PART.search(f"{name}.gguf"):
            yield f"model {name} has a name that llama.cpp takes for one file of several: choose another"
        elif problem := profile_problem(profiles[name]):
            yield f"model {name} in llama_models {problem}"
        elif "repo" in profiles[name] and (problem := token_problem(token)):
            yield f"model {name} comes from the hub, and {problem}"


def problems(names: Any, profiles: Any, token: str | None = None) -> list[str]:
    """Problems of the profiles ``names``, one line each; an empty list when nothing is.

    ``token``: the one for the hub, of which nothing is repeated.
    """
    return [one_line(problem, token) for problem in _problems(names, profiles, token)]
