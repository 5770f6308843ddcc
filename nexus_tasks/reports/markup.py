"""Pieces of a page: tables, notes, numbers as text. Made from the templates in ``templates/report``.

    table([Column("Run", numeric=False), Column("TTFT", "ms")], [["1", number(12.34)]])

The templates escape every text, so a value out of a record can't become markup.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jinja2

from nexus_tasks.core.provenance import ROOT

SKIN = ROOT / "templates" / "report"
MISSING = "\N{EN DASH}"
SPACE = "\N{NO-BREAK SPACE}"  # between a number and its unit


@dataclass(frozen=True)
class Block:
    """A piece of HTML that a notebook shows as it is."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, its unit, and whether it holds numbers (set flush right)."""

    title: str
    unit: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """A value of a table; ``tone`` is good, bad, muted or empty; ``link`` is a relative address or empty; ``detail``
    stands below it in small type."""

    text: str
    tone: str = ""
    link: str = ""
    detail: str = ""


Rows = list[list[Cell | str]]


def number(value: float | None, unit: str = "") -> str:
    """A number with the digits that mean something: ``0.412``, ``12.4``, ``318``; a dash where unknown."""
    if value is None or not math.isfinite(value):
        return MISSING
    size = abs(value)
    digits = 0 if size >= 100 or value == 0 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}" + (f"{SPACE}{unit}" if unit else "")


def span(milliseconds: float | None) -> str:
    """A time with its unit, in seconds where it is long: ``12.4 ms``, ``1.93 s``; a dash where unknown."""
    if milliseconds is None or abs(milliseconds) < 1000:
        return number(milliseconds, "ms")
    return number(milliseconds / 1000, "s")


def interval(ends: Sequence[float] | None) -> str:
    """The two ends of an interval with a dash between them; empty where there is none."""
    if not ends:
        return ""
    return f"{number(ends[0])}\N{EN DASH}{number(ends[1])}"


def percent(value: float | None) -> str:
    """A signed change: ``+1.4 %``; a dash where unknown."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:+.{2 if abs(value) < 1 else 1}f}{SPACE}%"


def moment(when: datetime) -> str:
    """``2026-11-22 10:15 UTC``; records are in UTC."""
    return f"{when:%Y-%m-%d %H:%M} UTC"


def fill(template: str, **values: Any) -> Block:
    """A block from a template of the skin."""
    return Block(_templates().get_template(template).render(**values))


def note(text: str, tone: str = "muted") -> Block:
    """A sentence set apart: ``tone`` is muted, good or bad."""
    return fill("blocks/note.html", text=text, tone=tone)


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]], caption: str = "") -> Block:
    """A table; it scrolls sideways on a narrow screen."""
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    return fill("blocks/table.html", columns=columns, rows=cells, caption=caption)


@functools.cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(SKIN),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
