"""What modules on a host fail with."""

from __future__ import annotations


class HostError(Exception):
    """What is wrong and what to do, in one line."""
