"""Reads ``llama-server --help``: which flags a release knows. Python 3.9's standard library only.

parse_help(text)            [(("-c", "--ctx-size"), "N"), …], in the order of the help
flags_of(text)              {"-c": "N", "--ctx-size": "N", …}, what the argument is called; empty where there is none
"""

from __future__ import annotations

import re


def parse_help(text: str) -> list[tuple[tuple[str, ...], str]]:
    """Each flag's spellings as the help orders them, and the name of its argument."""
    flags = []
    for line in text.splitlines():
        if not re.match(r"--?[A-Za-z]", line):
            continue
        spellings = []
        rest = line
        while True:
            flag = re.match(r"(--?[A-Za-z][\w.-]*)(,\s+)?", rest)
            if not flag:
                break
            spellings.append(flag[1])
            rest = rest[flag.end() :]
            if not flag[2]:
                break
        # The name of the argument is one space away, what the flag means several.
        value = re.split(r"\s{2,}", rest[1:])[0] if re.match(r" \S", rest) else ""
        flags.append((tuple(spellings), value))
    return flags


def flags_of(text: str) -> dict[str, str]:
    """By spelling what the argument of each flag is called."""
    return {spelling: value for spellings, value in parse_help(text) for spelling in spellings}
