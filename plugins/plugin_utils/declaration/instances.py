"""Instances as the inventory declares them: what of them has the shape of instances, by their names as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .options import given


def well_formed(instances: Any) -> dict[str, Mapping[str, Any]]:
    """The options of instances by name, those that are set; what is malformed is left out, the problems tell of it.

    YAML makes numbers of names that are numbers, as of a server for each GPU.
    """
    declared = instances.items() if isinstance(instances, Mapping) else ()
    return {str(name): given(options) for name, options in declared if isinstance(options, Mapping)}


def names(instances: Any) -> list[str]:
    """The names of what is declared, of malformed instances, too."""
    return [str(name) for name in instances] if isinstance(instances, Mapping) else []


def name_problems(instances: Mapping[Any, Any]) -> Iterator[str]:
    """Names that YAML made something else of than a text or a number, and those that are the same as text."""
    told: dict[str, Any] = {}
    for name in instances:
        if isinstance(name, bool) or not isinstance(name, str | int):
            yield f"instance {name}: YAML takes its name for something else: write it in quotes"
        elif str(name) in told:
            yield f"instances {told[str(name)]!r} and {name!r} have one name: give one of them another"
        told.setdefault(str(name), name)
