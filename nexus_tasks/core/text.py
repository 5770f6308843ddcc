"""Numbers, units, moments and plurals as text: what tables, sentences, axes and the terminal write alike.

    number(12.34, "ms")           12.3 ms
    span(1934.0)                  1.93 s
    plural(1200, "request")       1,200 requests

What is not known is a dash.
"""

from __future__ import annotations

import codecs
import io
import math
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TextIO

MISSING = "\N{EN DASH}"
SPACE = "\N{NO-BREAK SPACE}"  # between a number and its unit

STAND_INS = {
    "\N{EN DASH}": "-", "\N{EM DASH}": "-", "\N{HORIZONTAL ELLIPSIS}": "...", "\N{RIGHTWARDS ARROW}": "->",
    "\N{LESS-THAN OR EQUAL TO}": "<=", "\N{GREATER-THAN OR EQUAL TO}": ">=", "\N{PLUS-MINUS SIGN}": "+-",
    "\N{MIDDLE DOT}": "-", "\N{NO-BREAK SPACE}": " ", "\N{BOX DRAWINGS LIGHT HORIZONTAL}": "-",
    "\N{BOX DRAWINGS HEAVY HORIZONTAL}": "-",
}  # fmt: skip
"""What is written on a terminal that lacks these; other letters that it lacks are question marks."""


def suit_terminals() -> None:
    """Have what this process prints be readable whatever encoding its terminal or pipe has: none raises an error.

    A stream that was closed before the process began takes everything and shows nothing, and so does that of errors and
    progress when nobody reads it any more.
    """
    codecs.register_error("stand-ins", _stand_ins)
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not what a test or a notebook put in its place
            stream.reconfigure(errors="stand-ins")
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = Unbroken(sys.stderr)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - as long as the process


class Unbroken(io.TextIOBase):
    """A stream for progress: once nobody reads it any more, it takes everything and shows nothing.

    What is written beside the work must not end the work, as when a terminal is closed, or a pipe to ``head``.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has it writable
        """That of the stream."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """True for a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor of the stream."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write a text."""
        try:
            return self._stream.write(text)
        except OSError:
            self._stream = _nowhere()
            return len(text)

    def flush(self) -> None:
        """Have it shown."""
        try:
            self._stream.flush()
        except OSError:
            self._stream = _nowhere()


def _stand_ins(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(STAND_INS.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


def number(value: float | None, unit: str = "") -> str:
    """A number with the digits that mean something: ``0.412``, ``12.4``, ``318``; a dash where unknown."""
    if value is None or not math.isfinite(value):
        return MISSING
    size = abs(value)
    digits = 0 if size >= 100 or value == 0 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}" + (f"{SPACE}{unit}" if unit else "")


def apart(value: float, bound: float, digits: int = 1) -> str:
    """A number beside a bound that it misses, with as many digits as show that it does: ``0.96`` beside 1."""
    while digits < 6 and value != bound and f"{value:.{digits}f}" == f"{bound:.{digits}f}":
        digits += 1
    return f"{value:,.{digits}f}"


def whole(value: float | None, unit: str = "") -> str:
    """A whole number with its unit: ``4,096 tokens``; a dash where unknown."""
    return MISSING if value is None or value != value else f"{value:,.0f} {unit}".rstrip()


def plural(count: int, noun: str) -> str:
    """A count of things: ``1 host``, ``2 hosts``, ``1,200 requests``. The noun takes an s."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def span(milliseconds: float | None) -> str:
    """A time with its unit, in seconds where it is long: ``12.4 ms``, ``1.93 s``; a dash where unknown."""
    if milliseconds is None or abs(milliseconds) < 1000:
        return number(milliseconds, "ms")
    return number(milliseconds / 1000, "s")


def duration(seconds: float) -> str:
    """A time of a task or a build, in seconds: ``0.4 s``, ``48 s``, ``12 min``, ``1 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def memory(mib: float) -> str:
    """An amount of memory or disk, given in MiB: ``512 MiB``, ``11.3 GiB``."""
    return number(mib / 1024, "GiB") if mib >= 1024 else number(mib, "MiB")


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


def minute(when: datetime) -> str:
    """``2026-11-22 10:15``, where what stands around it says that times are in UTC."""
    return f"{when:%Y-%m-%d %H:%M}"


def moment(when: datetime) -> str:
    """``2026-11-22 10:15 UTC``; records are in UTC."""
    return f"{minute(when)} UTC"


def listing(names: Sequence[str]) -> str:
    """Names as a clause has them: ``a``, ``a and b``, ``a, b and c``. There is one at least."""
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]


def sentence(clauses: Sequence[str]) -> str:
    """Clauses as one sentence, with semicolons between them; empty ones are left out."""
    text = "; ".join(clause for clause in clauses if clause)
    return f"{text[:1].upper()}{text[1:]}." if text else ""
