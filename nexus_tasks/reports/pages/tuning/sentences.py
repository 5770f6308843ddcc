"""Sentences that open a tuning's page: what was changed, what it brought or cost, and what can't be told.

sentences.opening(compared)
"""

from __future__ import annotations

from nexus_tasks.comparison import comparable
from nexus_tasks.comparison.verdicts import BETTER, WORSE
from nexus_tasks.core.text import listing, sentence
from nexus_tasks.reports.pages.compare.sentences import movements, trust
from nexus_tasks.reports.pages.compare.sides import Compared, with_letters
from nexus_tasks.reports.pages.tuning import argv


def opening(compared: Compared) -> list[str]:
    """A change of configuration: what was changed, what it brought or cost, and what can't be told."""
    before, after = compared.sides[0][-1], compared.sides[-1][-1]
    changed = [
        f"{name} added{f', {new}' if new else ''}"
        if old is None
        else f"{name} removed"
        if new is None
        else f"{name} {old} \N{RIGHTWARDS ARROW} {new}"
        for name, old, new in argv.changed(before, after)
    ]
    changed += [line for line in comparable.differences(before, after) if not line.startswith("argv")]
    first = f"Changed: {'; '.join(changed)}." if changed else "Nothing that a record knows of was changed."
    last = compared.comparisons[-1]
    if isinstance(last, str):
        return [first, f"What it brought can't be told: {with_letters(last, compared.sides)}.", trust(compared)]
    gained, lost = movements(last, BETTER), movements(last, WORSE)
    parts = [f"it made {listing(gained)} better" if gained else "", f"it made {listing(lost)} worse" if lost else ""]
    second = sentence(parts) or "It made nothing better or worse that can be told."
    return [first, second, trust(compared)]
