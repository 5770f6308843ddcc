"""Texts of the role's filters on a terminal: their width and their colours.

    terminal.show(console, server_tables.status_table(rows, terminal.width(console)))

People read the same text from nox as from ansible-playbook.
"""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

MAX_WIDTH = 120


def coloured(text: str) -> Text:
    """A text of the role's filters as a terminal should show it."""
    shown = Text(text)
    for style, pattern in (
        ("bold", r"(?m)^INSTANCE .*$|^ +check +expected +found$|^\S+/\S+:"),
        ("green", r"(?m) ok$|\brunning\b|\bverified\b"),
        ("yellow", r"(?m) note$|\bswitching\b|\bnot (deployed|declared)\b"),
        ("bold red", r"\bFAILED\b|\b(DOWN|UNREACHABLE|UNSUPERVISED|STARTING|LOADING|RUNNING|NOT PROVEN|NO ANSWER)\b"),
    ):
        shown.highlight_regex(pattern, style)
    return shown


def show(console: Console, text: str) -> None:
    """Print a text of the role's filters as it is: its lines were made for this width."""
    console.print(coloured(text), soft_wrap=True)


def width(console: Console) -> int:
    """The longest line that a table may have, in characters."""
    return min(console.width, MAX_WIDTH)
