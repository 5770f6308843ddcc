"""Tables of a tuning's page: its top, and the server's options before and after.

tables.options(compared)
"""

from __future__ import annotations

from nexus_tasks.comparison import comparable
from nexus_tasks.core.text import MISSING
from nexus_tasks.reports.markup import Block, Cell, Column, Rows, fill, note, table
from nexus_tasks.reports.pages.compare.sides import Compared
from nexus_tasks.reports.pages.compare.tables import page_head
from nexus_tasks.reports.pages.tuning import argv, sentences


def head(compared: Compared) -> Block:
    """The top of a tuning's page: what was changed, what it brought and what it cost."""
    return page_head(compared, sentences.opening(compared), "Tuning")


def options(compared: Compared) -> Block:
    """The server's options before and after, those that changed first."""
    before, after = compared.sides[0][-1], compared.sides[-1][-1]
    old, new = argv.options(before), argv.options(after)
    if old is None or new is None:
        return note("A record doesn't know the server's command line, so what was changed there is not known.")
    columns = [Column("Option", numeric=False), Column("Before", numeric=False), Column("After", numeric=False)]
    changed: Rows = [[name, _value(one), _value(other)] for name, one, other in argv.changed(before, after)]
    kept: Rows = [[Cell(name, "muted"), value, value] for name, value in old.items() if new.get(name) == value]
    parts = [table(columns, changed) if changed else note("The command line is the same in both.")]
    if kept:
        same = table(columns, kept).html
        parts.append(fill("blocks/folded.html", title=f"{len(kept)} options that are the same", html=same))
    others = [line for line in comparable.differences(before, after) if not line.startswith("argv")]
    parts += [note(f"Also changed: {line}") for line in others]
    return Block("".join(part.html for part in parts))


def _value(text: str | None) -> str:
    return MISSING if text is None else text or "given"
