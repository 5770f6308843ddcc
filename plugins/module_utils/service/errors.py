"""Errors of a service that can't run. Python 3.9's standard library only."""

from __future__ import annotations


class ServiceError(Exception):
    """A service that can't run: what is wrong and what to do, in one line."""
