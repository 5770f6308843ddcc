"""Command lines of names and options, in any order.

given = arguments.parse(parser, argv)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, namespace: argparse.Namespace | None = None
) -> argparse.Namespace:
    """Parse a command line, also where options stand between names.

    argparse's own ``parse_args`` takes the names before the first option, and calls those behind it unrecognized.

    Args:
        argv: None for the words of this process.
        namespace: takes what is parsed, where some of it is set already.
    """
    vars(parser)["color"] = False  # from Python 3.14 on it writes its colours into the usage
    # The usage as it is before argparse tries options and names apart, in which it shows neither names nor a %.
    parser.usage = parser.format_usage().removeprefix("usage: ").rstrip().replace("%", "%%")
    words = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(words):  # its names have defaults that are missing then
        parser.print_help()
        parser.exit()
    return parser.parse_intermixed_args(words, namespace)
