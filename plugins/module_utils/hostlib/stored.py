"""Objects in files of a host, a dataclass each. Python 3.9's standard library only.

    @dataclass(frozen=True)
    class State(Stored):
        phase: str = "unknown"

    state = State.from_json(read_json(path) or {})
    write_file(path, to_json(state.as_json()))

A file that is read and written again keeps its bytes, whichever version wrote it: keys that this version doesn't know
are in ``other``, and keys that the file lacked are not added, unless they got a value since. Values are as JSON has
them; nothing is converted.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

AnyStored = TypeVar("AnyStored", bound="Stored")


def to_json(value: object) -> str:
    """The text of a file."""
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


@dataclass(frozen=True)
class Stored:
    """An object in a file. Every key has a default, since another version may have written it without."""

    other: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Keys that this version doesn't know."""
    given: frozenset[str] = field(default=frozenset(), repr=False, compare=False)
    """Keys that are written even with their default value, since they stood there."""

    PARTS: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}
    """By key what makes the value here of that in JSON, where they differ."""

    @classmethod
    def from_json(cls: type[AnyStored], stored: Mapping[str, Any]) -> AnyStored:
        known = cls._keys()
        values = {key: cls.PARTS[key](value) if key in cls.PARTS else value for key, value in stored.items()}
        other = {key: value for key, value in values.items() if key not in known}
        return cls(
            other=other, given=known & set(values), **{key: values[key] for key in known if key in values}
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        defaults = type(self)()
        keys = [key for key in self._keys() if key in self.given or getattr(self, key) != getattr(defaults, key)]
        return {**{key: _plain(getattr(self, key)) for key in keys}, **self.other}

    @classmethod
    def _keys(cls) -> frozenset[str]:
        return frozenset(entry.name for entry in dataclasses.fields(cls)) - {"other", "given"}


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Stored):
        return value.as_json()
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


def one(kind: type[AnyStored]) -> Callable[[Any], AnyStored | None]:
    """Makes an object of a key; null stays None."""
    return lambda value: None if value is None else kind.from_json(value)


def many(kind: type[AnyStored]) -> Callable[[Any], tuple[AnyStored, ...]]:
    """Makes the objects of a list."""
    return lambda values: tuple(map(kind.from_json, values))


def named(kind: type[AnyStored]) -> Callable[[Any], dict[str, AnyStored]]:
    """Makes objects by their names."""
    return lambda values: {name: kind.from_json(value) for name, value in (values or {}).items()}


def words(values: Any) -> tuple[Any, ...] | None:
    """A list as a tuple; null stays None."""
    return None if values is None else tuple(values)
