"""Origins of a model's files: an address and a hash for each. Python 3.9's standard library only.

They are, the first that is given: the files that somebody has looked up (``files``: the controller at the hub, or a
host of the fleet that has them), a mirror of the hub, the addresses of the profile.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ..hostlib import masking
from .address import asked
from .download import Origin, text_of
from .errors import ModelError
from .hub_token import token_problem

HUB = "https://huggingface.co"
SUMS = "SHA256SUMS"  # of a mirror's folder, as sha256sum writes it
SUMS_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)")


def origins(params: Mapping[str, Any]) -> list[Origin]:
    """The origins of a model's files, in their order. Raises ModelError for what can't be asked for, or verified.

    Args:
        params: those of the module gguf_file.
    """
    profile = params["profile"]
    if params["files"]:
        return _looked_up(params)
    if profile["repo"]:
        return _at_mirror(params["mirror"], profile)
    entries = profile["urls"] or [{"url": profile["url"], "sha256": profile["sha256"]}]
    return [
        _origin(source_name(profile, number), entry["url"], entry["sha256"]) for number, entry in enumerate(entries)
    ]


def source_name(profile: Mapping[str, Any], number: int) -> str:
    """The name that people call a file's origin by, the one of that number."""
    if profile["repo"]:
        return f"{profile['repo']}/{_names(profile)[number]}"
    if profile["generator"]:
        return f"the generator {profile['generator']}"
    return masking.addresses(profile["urls"][number]["url"] if profile["urls"] else profile["url"])


def wanted_sha256s(profile: Mapping[str, Any]) -> list[str | None]:
    """The hash that each of a model's files must have by the profile; of a path only that of the first is told."""
    entries = profile["files"] or profile["urls"] or [profile]
    return [(entry.get("sha256") or "").lower() or None for entry in entries]


def _names(profile: Mapping[str, Any]) -> list[str]:
    """The names of a model's files in its repository."""
    return [entry["file"] for entry in profile["files"]] if profile["files"] else [profile["file"]]


def _looked_up(params: Mapping[str, Any]) -> list[Origin]:
    if problem := token_problem(params["token"]):
        raise ModelError(problem)
    endpoint = (params["endpoint"] or HUB).rstrip("/")
    token = f"Bearer {params['token']}" if params["token"] else None
    return [
        _origin(
            source_name(params["profile"], number), endpoint + file["path"], file["sha256"], file["size_bytes"], token
        )
        for number, file in enumerate(params["files"])
    ]


def _at_mirror(mirror: str, profile: Mapping[str, Any]) -> list[Origin]:
    """The origins in a mirror, a folder with REPO/FILE; hashes that the profile lacks are in its REPO/SHA256SUMS."""
    base = f"{mirror.rstrip('/')}/{quote(profile['repo'])}"
    names, sums = _names(profile), list(wanted_sha256s(profile))
    if None in sums:
        listing = text_of(_origin(SUMS, f"{base}/{SUMS}", ""))
        listed = {name: sha256 for sha256, name in SUMS_LINE.findall(listing)}
        sums = [sha256 or listed.get(name) for name, sha256 in zip(names, sums)]
        for name, sha256 in zip(names, sums):
            if sha256 is None:
                there = ", ".join(nearest_first(name, list(listed))) or "(it lists none)"
                raise ModelError(
                    f"{masking.addresses(base)}/{SUMS} does not list {name}: name one of {there}, or set sha256 in the "
                    "profile"
                )
    return [
        _origin(f"{profile['repo']}/{name}", f"{base}/{quote(name)}", sha256 or "") for name, sha256 in zip(names, sums)
    ]


def nearest_first(like: str, names: Sequence[str]) -> list[str]:
    """Names by how near they are to one, whatever their case; equally near ones by the alphabet."""
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(like.lower())

    def distance(name: str) -> tuple[float, str]:
        matcher.set_seq1(name.lower())
        return -matcher.ratio(), name

    return sorted(names, key=distance)


def _origin(name: str, url: str, sha256: str, size_bytes: int | None = None, token: str | None = None) -> Origin:
    try:
        address, authorization = asked(url)
    except ValueError as error:
        raise ModelError(f"url can't be asked for: {error}") from error
    return Origin(name, address, token or authorization, sha256.lower(), size_bytes)
