"""Errors of measurements that do not take place. Python 3.9's standard library only."""

from __future__ import annotations


class Refused(Exception):
    """A measurement that did not take place, and why."""
