"""Origins of a model's files: an address and a hash for each, of a profile and what the hub was asked before.

Python 3.9's standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..hostlib import masking
from .address import asked
from .download import Origin
from .errors import ModelError
from .hub_token import token_problem

HUB = "https://huggingface.co"


def origins(params: Mapping[str, Any]) -> list[Origin]:
    """The origins of a model's files, in their order. Raises ModelError for an address that can't be asked for.

    Args:
        params: those of the module gguf_file; of a model of the hub with ``hub_files``.
    """
    profile = params["profile"]
    if profile["repo"]:
        return _at_hub(params)
    entries = profile["urls"] or [{"url": profile["url"], "sha256": profile["sha256"]}]
    return [
        _origin(source_name(profile, number), entry["url"], entry["sha256"]) for number, entry in enumerate(entries)
    ]


def source_name(profile: Mapping[str, Any], number: int) -> str:
    """The name that people call a file's origin by, the one of that number."""
    if profile["repo"]:
        return f"{profile['repo']}/{profile['files'][number]['file'] if profile['files'] else profile['file']}"
    if profile["generator"]:
        return f"the generator {profile['generator']}"
    return masking.addresses(profile["urls"][number]["url"] if profile["urls"] else profile["url"])


def wanted_sha256s(profile: Mapping[str, Any]) -> list[str | None]:
    """The hash that each of a model's files must have by the profile; of a path only that of the first is told."""
    entries = profile["files"] or profile["urls"] or [profile]
    return [(entry.get("sha256") or "").lower() or None for entry in entries]


def _at_hub(params: Mapping[str, Any]) -> list[Origin]:
    if problem := token_problem(params["hub_token"]):
        raise ModelError(problem)
    endpoint = (params["hub_endpoint"] or HUB).rstrip("/")
    token = f"Bearer {params['hub_token']}" if params["hub_token"] else None
    return [
        _origin(
            source_name(params["profile"], number), endpoint + file["path"], file["sha256"], file["size_bytes"], token
        )
        for number, file in enumerate(params["hub_files"])
    ]


def _origin(name: str, url: str, sha256: str, size_bytes: int | None = None, token: str | None = None) -> Origin:
    try:
        address, authorization = asked(url)
    except ValueError as error:
        raise ModelError(f"url can't be asked for: {error}") from error
    return Origin(name, address, token or authorization, sha256.lower(), size_bytes)
