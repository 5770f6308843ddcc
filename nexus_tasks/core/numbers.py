"""Numbers as people write them in options: finite, and of a size that a machine can do something about.

parser.add_argument("--duration", type=numbers.number)
parser.add_argument("--requests", type=numbers.whole)
"""

from __future__ import annotations

import argparse
import re

LARGEST = 1_000_000_000
LARGEST_WHOLE = 2**32  # seeds are as large
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)


def number(text: str) -> float:
    """A number, such as ``2`` or ``0.5``. argparse.ArgumentTypeError for ``nan``, ``inf`` and what is no number."""
    value = float(text) if _NUMBER.fullmatch(text.strip()) else None
    if value is None or not abs(value) <= LARGEST:
        raise argparse.ArgumentTypeError(f"must be a number, and at most {LARGEST:g}, not {text!r}")
    return value


def whole(text: str) -> int:
    """A whole number. argparse.ArgumentTypeError for what is none."""
    # No more digits than are read: Python itself refuses thousands of them.
    value = int(text) if _WHOLE.fullmatch(text.strip()) and len(text) < 30 else None
    if value is None or abs(value) > LARGEST_WHOLE:
        raise argparse.ArgumentTypeError(f"must be a whole number, and at most {LARGEST_WHOLE}, not {text!r}")
    return value
