"""Command lines of two servers as options and their values, and which of them were changed."""

from __future__ import annotations

from nexus_tasks.hostlib import argv as command_line
from nexus_tasks.records.store import BenchmarkRecord


def options(record: BenchmarkRecord) -> dict[str, str] | None:
    """A server's command line as options and their values; None where it is not known."""
    argv = record.header.server.argv
    if not argv:
        return None
    values: dict[str, list[str]] = {}
    for option in command_line.options(argv[1:]):
        values.setdefault(option.flag, []).extend(option.values)
    return {flag: " ".join(words) for flag, words in values.items()}


def changed(before: BenchmarkRecord, after: BenchmarkRecord) -> list[tuple[str, str | None, str | None]]:
    """The options that are not the same in both: name, value before, value after; None where it was not given."""
    old, new = options(before) or {}, options(after) or {}
    names = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    return [(name, old.get(name), new.get(name)) for name in names]
