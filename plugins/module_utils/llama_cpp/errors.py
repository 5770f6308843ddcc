"""Why there is no release. Python 3.9's standard library only."""

from __future__ import annotations


class ReleaseError(Exception):
    """One line that names the remedy."""
