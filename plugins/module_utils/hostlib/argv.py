"""Command lines read as options: flags, each with the values that follow it.

    options(["llama-server", "-c", "4096", "--temp", "-.5"])     [Option(("-c", "4096")), Option(("--temp", "-.5"))]
    options(argv)[0].flag, options(argv)[0].values               "-c", ("4096",)
    values_of(argv, {"--ctx-size", "-c"})                        ["4096"]

Python 3.9's standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

_FLAG = re.compile(r"--?[A-Za-z]")


@dataclass(frozen=True)
class Option:
    """One flag of a command line, where it is given."""

    words: tuple[str, ...]
    """The flag and what follows it up to the next one, as they stand."""

    @property
    def flag(self) -> str:
        return flag_of(self.words[0])

    @property
    def values(self) -> tuple[str, ...]:
        """Its values, the one that is glued to it (``--flag=value``) first; none of a switch."""
        _, glued, value = self.words[0].partition("=")
        return ((value,) if glued else ()) + self.words[1:]


def is_flag(word: str) -> bool:
    """True where a word is a flag by its look: a number below 0 and a hyphen alone are values."""
    return bool(_FLAG.match(word))


def flag_of(word: str) -> str:
    """A word without the value that was glued to it, which may be a secret."""
    return word.split("=", 1)[0]


def options(argv: Sequence[str]) -> list[Option]:
    """The options of a command line in their order, one each time that a flag is given.

    What stands before the first flag, the program for one, belongs to none. A value that looks like a flag is taken for
    one: a password that must not be shown, whatever it looks like, is not to be found by this.
    """
    starts = [place for place, word in enumerate(argv) if is_flag(word)]
    return [Option(tuple(argv[start:end])) for start, end in zip(starts, [*starts[1:], len(argv)])]


def values_of(argv: Sequence[str], flags: Collection[str]) -> list[str]:
    """The first value of each option that is given by one of these flags, without those that have none."""
    return [option.values[0] for option in options(argv) if option.flag in flags and option.values]
