"""Why nothing is measured. Python 3.9's standard library only."""

from __future__ import annotations


class Refused(Exception):
    """Why nothing was measured."""
