"""Keys of an instance's clients, as its key file holds them."""

from __future__ import annotations

from ..hostlib.instances import Instance
from .errors import HostError


def read_keys(config: Instance) -> dict[str, str]:
    """The keys of a generation, by name. Raises HostError where they can't be read."""
    if not config.key_file:
        return {}
    try:
        with open(config.key_file, encoding="utf-8") as stream:
            lines = stream.read().splitlines()
    except OSError as error:
        raise HostError(f"the keys in {config.key_file} can't be read ({error.strerror}): deploy again") from error
    return dict(named_keys(lines))


def old_keys(config: Instance | None) -> dict[str, str]:
    """The keys of what ran before; empty where they can't be read: that must not keep a new server from being tried."""
    try:
        return read_keys(config) if config else {}
    except HostError:
        return {}


def named_keys(lines: list[str]) -> list[tuple[str, str]]:
    """The name and key of each pair of lines of a key file."""
    return [(name[2:], key) for name, key in zip(lines[::2], lines[1::2])]
