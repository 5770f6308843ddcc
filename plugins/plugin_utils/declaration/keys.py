"""Keys of an instance's clients. No message holds a key, nor what may be one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .instances import well_formed

KEY_LENGTH = 16
KEY_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,14}")  # shorter than any key, so that none can be told as a name
# What people leave in examples: these words alone, with digits and signs between them.
PLACEHOLDER = re.compile(
    r"(?:sk|change|me|your|own|my|put|insert|enter|set|replace|with|this|the|it|a|api|access|auth|key|keys|token|here|"
    r"placeholder|example|sample|dummy|default|secret|secrets|password|passwd|test|testing|demo|todo|tbd|none|null|"
    r"foo|bar|baz|abc|x{3,})+"
)


def key_problems(keys: Any) -> Iterator[str]:
    """Problems of the keys; their names are told, they themselves never are."""
    if not isinstance(keys, Mapping):
        yield "api_keys is no dict: write NAME: KEY, a key for each client or group of clients"
        return
    named: dict[str, str] = {}
    for name, key in keys.items():
        if not KEY_NAME.fullmatch(str(name)):
            yield "a name in api_keys is none: use up to 15 letters, digits and . _ -, and write the key behind it"
            continue
        problem = key_problem("" if key is None else key)
        if problem:
            yield f"key {name} {problem}"
        named[str(name)] = str(key)
    for one, other in itertools.combinations(named, 2):
        if named[one] and named[one] == named[other]:
            yield f"keys {one} and {other} are the same: draw another for one of them"


def key_problem(key: Any) -> str | None:
    """The first problem of a key, without the key itself; None where it is right."""
    draw = "draw one, as with openssl rand -hex 24"
    if isinstance(key, bool | list | Mapping):
        return f"is no text: {draw}"
    key = str(key)
    if not key:
        return "is empty: set the variable of the environment that it is taken from, or leave it out"
    if not re.fullmatch(r"[!-~]+", key):
        return f"holds white space or what is no visible ASCII character: {draw}"
    if key.startswith("#"):
        return f"begins with #, which makes it a comment for llama-server: {draw}"
    words = re.sub(r"[^a-z]", "", key.lower())
    if (words and PLACEHOLDER.fullmatch(words)) or re.fullmatch("<.*>", key) or len(set(key)) < 5:
        return f"is a placeholder: {draw}"
    if len(key) < KEY_LENGTH:
        return f"has fewer than {KEY_LENGTH} characters: {draw}"
    return None


def keys_by_instance(instances: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The keys by instance and name, for those that have some."""
    keys_by_name = {name: options.get("api_keys") for name, options in well_formed(instances).items()}
    return {
        name: {str(who): str(key) for who, key in keys.items()}
        for name, keys in keys_by_name.items()
        if keys and isinstance(keys, Mapping)
    }
