"""Pieces of a page: tables and notes as HTML, made from the templates in ``templates/report``.

    table([Column("Run", numeric=False), Column("TTFT", "ms")], [["1", number(12.34)]])

The templates escape every text, so a value out of a record can't become markup.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from nexus_tasks.core.provenance import ROOT
from nexus_tasks.stats.metrics import Metric, Source

SKIN = ROOT / "templates" / "report"


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

    @classmethod
    def of(cls, metric: Metric, unit: str = "") -> Column:
        """The column of a metric, in its own unit where none is given."""
        name = metric.title if metric.source is Source.THROUGHPUT else metric.heading  # "Throughput" says too little
        return cls(name, unit or metric.unit)


@dataclass(frozen=True)
class Cell:
    """A value of a table; ``tone`` is good, bad, muted or empty; ``link`` is a relative address or empty; ``detail``
    stands below it in small type."""

    text: str
    tone: str = ""
    link: str = ""
    detail: str = ""


Rows = list[list[Cell | str]]


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
