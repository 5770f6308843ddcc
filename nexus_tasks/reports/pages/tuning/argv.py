"""Command lines of two servers as options and their values, and which of them were changed."""

from __future__ import annotations

from nexus_tasks.records.store import Record


def options(record: Record) -> dict[str, str] | None:
    """A server's command line as options and their values; None where it is not known."""
    argv = record.header["server"]["argv"]
    if not argv:
        return None
    found: dict[str, list[str]] = {}
    name = None
    for word in argv[1:]:
        if word.startswith("-") and not word[1:2].isdigit():
            name = word
            found.setdefault(name, [])
        elif name is not None:
            found[name].append(word)
    return {name: " ".join(values) for name, values in found.items()}


def changed(before: Record, after: Record) -> list[tuple[str, str | None, str | None]]:
    """The options that are not the same in both: name, value before, value after; None where it was not given."""
    old, new = options(before) or {}, options(after) or {}
    names = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    return [(name, old.get(name), new.get(name)) for name in names]
