"""Users of a gateway: what is wrong with their declaration, and the maps by which HAProxy knows them.

problems = user_problems(users, models)
maps = user_maps(users)      # {"maps/keys.map": {"<sha256>": "alice"}, …}; no key is in them

No message holds a key, nor what may be one.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..declaration.keys import key_problem

USER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
LIMITS = ("requests_per_minute", "concurrent_requests", "tokens_per_day")
OPTIONS = ("key", "models", *LIMITS)
MAX_LIMIT = 2**31 - 1  # HAProxy compares numbers of 32 bits where it counts

KEYS, USER_MODELS = "maps/keys.map", "maps/user_models.map"
LIMIT_MAPS = {
    "requests_per_minute": "maps/requests_per_minute.map",
    "concurrent_requests": "maps/concurrent_requests.map",
}
EVERY_MODEL = "*"
SEPARATOR = "/"

Users = Mapping[str, Any]


def user_problems(users: Any, models: Iterable[str] | None = None) -> Iterator[str]:
    """Problems of ``gateway_users``, one line each.

    Args:
        models: the names of those that the gateway has; None where they are not known.
    """
    if not isinstance(users, Mapping):
        yield "gateway_users is no dict: write NAME: {key: KEY} for each user"
        return
    known = None if models is None else sorted(models)
    keys: dict[str, str] = {}
    for name, options in users.items():
        if not USER_NAME.fullmatch(str(name)):
            yield "a name in gateway_users is none: use up to 64 letters, digits and . _ @ -, and write its key below"
            continue
        where = f"gateway_users.{name}"
        if not isinstance(options, Mapping):
            yield f"{where} is no dict: write key: KEY below the name, and its limits"
            continue
        if options.get("key") is None:
            yield f"{where} has no key: draw one, as with openssl rand -hex 24, and keep it in Vault"
        elif problem := key_problem(options["key"]):
            yield f"{where}: its key {problem}"
        else:
            keys[str(name)] = str(options["key"])
        yield from _option_problems(where, options, known)
    for one, other in itertools.combinations(keys, 2):
        if keys[one] == keys[other]:
            yield f"gateway_users: {one} and {other} have the same key: draw another for one of them"


def _option_problems(where: str, options: Mapping[str, Any], known: list[str] | None) -> Iterator[str]:
    for name in options:
        if name not in OPTIONS:
            yield f"{where} has {name}, which is no option of a user: it has {', '.join(OPTIONS)}"
    for name in LIMITS:
        value = options.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_LIMIT):
            yield f"{where}.{name} is no number from 1 to {MAX_LIMIT}: leave it out for no limit"
    models = options.get("models")
    if models is None:
        return
    if not isinstance(models, list) or not models or not all(isinstance(model, str) for model in models):
        yield f"{where}.models is no list of models: leave it out for all of them"
    elif known:
        for model in models:
            if model not in known:
                yield f"{where}.models names {model}, which no instance serves: it has {', '.join(known)}"


def user_maps(users: Users) -> dict[str, dict[str, str]]:
    """The maps of users, by their place below the gateway's folder. Keys are in them as hashes, in capitals."""
    users = {str(name): user for name, user in users.items()}  # YAML reads digits as a number
    return {
        KEYS: {hashlib.sha256(str(user["key"]).encode()).hexdigest().upper(): name for name, user in users.items()},
        USER_MODELS: {
            f"{name}{SEPARATOR}{model}": "1"
            for name, user in users.items()
            for model in (user.get("models") or [EVERY_MODEL])
        },
        **{
            place: {name: str(user[limit]) for name, user in users.items() if user.get(limit) is not None}
            for limit, place in LIMIT_MAPS.items()
        },
    }


def token_limits(users: Users) -> dict[str, int]:
    """The tokens that users have a day, of those that have a limit."""
    limits = {str(name): user.get("tokens_per_day") for name, user in users.items()}
    return {name: limit for name, limit in limits.items() if limit is not None}
