"""Users as a running gateway knows them: maps in files that their owner alone may read, and in HAProxy's memory.

changes = apply(root, maps, token_limits, check_mode=False)
changes.files, changes.live, changes.mended

A key that is new is known before an old one is forgotten, and each at once: nothing is loaded anew, and no request
under way ends.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import GatewayError
from .runtime_api import RuntimeApi

SOCKET, TOKEN_LIMITS, TOKENS_LEFT = "run/admin.sock", "maps/tokens_per_day.json", "maps/tokens_left.map"
OTHERS = stat.S_IRWXG | stat.S_IRWXO

Maps = Mapping[str, Mapping[str, str]]


@dataclass
class Changes:
    """Differences from what is declared: ``files``, maps in memory (``live``), files open to others (``mended``)."""

    files: list[str] = field(default_factory=list)
    live: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)


def apply(root: str, maps: Maps, token_limits: Mapping[str, int], check_mode: bool) -> Changes:
    """Have the users as declared, in files and, where HAProxy runs, in its memory.

    Raises:
        GatewayError: HAProxy runs and does not take them.
        OSError: a file can't be read or written.
    """
    changes = Changes()
    texts = {place: _text(entries) for place, entries in maps.items()}
    texts[TOKEN_LIMITS] = json.dumps(dict(token_limits), sort_keys=True, indent=1) + "\n"
    for place, text in texts.items():
        _have(root, place, text, changes, check_mode)
    if not os.path.exists(os.path.join(root, TOKENS_LEFT)):  # the follower's, from then on
        _have(root, TOKENS_LEFT, _text({user: str(limit) for user, limit in token_limits.items()}), changes, check_mode)
    elif _open_to_others(os.path.join(root, TOKENS_LEFT)):
        _mend(root, TOKENS_LEFT, changes, check_mode)
    api = RuntimeApi(os.path.join(root, SOCKET))
    if _is_up(api):
        for place, entries in maps.items():
            if _live(api, os.path.join(root, place), entries, check_mode):
                changes.live.append(place)
    return changes


def _text(entries: Mapping[str, str]) -> str:
    return "".join(f"{key} {value}\n" for key, value in sorted(entries.items()))


def _have(root: str, place: str, text: str, changes: Changes, check_mode: bool) -> None:
    path = os.path.join(root, place)
    try:
        with open(path, encoding="utf-8") as stream:
            is_right = stream.read() == text
    except FileNotFoundError:
        is_right = False
    if is_right and _open_to_others(path):
        _mend(root, place, changes, check_mode)
    if is_right:
        return
    changes.files.append(place)
    if os.path.exists(path) and _open_to_others(path):
        changes.mended.append(place)
    if check_mode:
        return
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as stream:
        os.fchmod(descriptor, 0o600)  # of one that was left behind
        stream.write(text)
    os.replace(f"{path}.new", path)


def _open_to_others(path: str) -> bool:
    return bool(stat.S_IMODE(os.stat(path).st_mode) & OTHERS)


def _mend(root: str, place: str, changes: Changes, check_mode: bool) -> None:
    changes.mended.append(place)
    if not check_mode:
        os.chmod(os.path.join(root, place), 0o600)


def _is_up(api: RuntimeApi) -> bool:
    if not os.path.exists(api.path):
        return False
    try:
        api.command("show info")
    except GatewayError:
        return False  # it reads the files when it starts
    return True


def _live(api: RuntimeApi, path: str, wanted: Mapping[str, str], check_mode: bool) -> bool:
    """Have a map in memory as wanted; True where it was not. A configuration without the map reads it when it comes."""
    try:
        known = dict(api.map_entries(path))
    except GatewayError:
        return False
    changed = {key: value for key, value in wanted.items() if known.get(key) != value}
    gone = known.keys() - wanted.keys()
    if not check_mode:
        for key, value in changed.items():
            api.map_set(path, key, value)
        for key in gone:
            api.map_delete(path, key)
    return bool(changed or gone)
