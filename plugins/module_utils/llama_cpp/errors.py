"""Errors of releases that can't be had. Python 3.9's standard library only."""

from __future__ import annotations


class ReleaseError(Exception):
    """One line that names the remedy."""
