"""Pieces of a page: tables and notes as HTML, made from the templates in ``templates/report``.

    table([Column("Run", numeric=False), Column("TTFT", "ms")], [["1", number(12.34)]])

The templates escape every text, so a value out of a record can't become markup, and show it by :func:`shown`, so that a
name can't turn its neighbours around or push them out of sight. What is written to a file goes through :func:`clean`.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup, escape

from nexus_tasks.core.provenance import ROOT
from nexus_tasks.hostlib.terminal_text import CONTROLS
from nexus_tasks.stats.metrics import Metric, Source

SKIN = ROOT / "templates" / "report"
LONG, LONGEST = 24, 120  # letters of a word: more, and lines may end within it; more, and its middle is left out
_PART = re.compile(rf"[^-_/:=@]{{,{LONG}}}[-_/:=@]*")


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
    """A value of a table; ``tone`` is good, bad, muted or empty; ``link`` is a relative address or empty.

    ``figure`` and ``detail``, in small type, stand below it.
    """

    text: str
    tone: str = ""
    link: str = ""
    detail: str = ""
    figure: Block = Block("")


Rows = list[list[Cell | str]]


def clean(text: str) -> str:
    """A text without what would reach beyond it: characters that control a terminal, or hide or turn around others.

    Each becomes a replacement character, so that two names that differ in them still look odd.
    """
    return CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def shortened(text: str, most: int = LONGEST) -> str:
    """A text of at most so many characters: in a longer one the middle is left out, for names differ at both ends."""
    return text if len(text) <= most else f"{text[: most * 2 // 3 - 1]}…{text[len(text) - most // 3 :]}"


def words_of(name: str) -> list[str]:
    """The parts of a name between which a line may end."""
    return [part for part in _PART.findall(name) if part]


def shown(text: str) -> Markup:
    """A text as a page has it, names and sentences alike.

    It is clean and escaped; what is written from right to left is isolated, so that numbers beside it stay in place;
    long words may be broken, and of a very long one the middle is left out (``title`` has the whole).
    """
    return Markup("").join(
        Markup("<bdi>{}</bdi>").format(_words(run)) if place % 2 else _words(run)
        for place, run in enumerate(_runs(clean(text)))
    )


def whole(text: str) -> Markup:
    """A text as :func:`shown`, with every letter of it: commands, logs and answers, which may be copied."""
    return Markup("").join(
        Markup("<bdi>{}</bdi>").format(run) if place % 2 else escape(run)
        for place, run in enumerate(_runs(clean(text)))
    )


def _runs(text: str) -> list[str]:
    """A text in turns of words without and with letters that run from right to left; the latter at odd places."""
    if text.isascii():
        return [text]
    runs = [""]
    for word in re.split(r"(\s+)", text):
        turned = any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in word)
        if turned == (len(runs) % 2 == 1) and not word.isspace():
            kept = runs[-1].rstrip()
            runs, space = [*runs[:-1], kept if turned is False else runs[-1]], "" if turned else runs[-1][len(kept) :]
            runs.append(space)
        runs[-1] += word
    return runs


def _words(text: str) -> Markup:
    return Markup("").join(_word(word) if len(word) > LONG else escape(word) for word in re.split(r"(\s+)", text))


def _word(word: str) -> Markup:
    kept = shortened(word)
    parts = Markup("<wbr>").join(words_of(kept))
    title = "" if kept == word else Markup(' title="{}"').format(word)
    return Markup('<span class="long"{}>{}</span>').format(title, parts)


def _finalize(value: object) -> object:
    return shown(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


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
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(SKIN),
        autoescape=True,
        finalize=_finalize,  # whatever a template shows, whether or not its author thought of names
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"whole": whole, "attribute": lambda text: escape(clean(text))}
    return made
