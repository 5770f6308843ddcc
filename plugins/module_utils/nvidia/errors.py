"""Errors of NVIDIA's software on a host. Python 3.9's standard library only."""

from __future__ import annotations


class NvidiaError(Exception):
    """One line that says what does not go together, and what to do."""


class DriverError(Exception):
    """One line that says what is wrong on the host, where, and what to do."""


class RebootDue(Exception):
    """A reboot that is due before the driver can serve, and why."""
