"""Errors of the modules that run on a host."""

from __future__ import annotations


class HostError(Exception):
    """Failure of a module on a host: what is wrong and what to do, in one line."""
