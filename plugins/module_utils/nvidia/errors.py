"""Why NVIDIA's software can't be had on a host. Python 3.9's standard library only."""

from __future__ import annotations


class NvidiaError(Exception):
    """One line that says what does not go together, and what to do."""


class DriverError(Exception):
    """One line that says what is wrong on the host, where, and what to do."""


class RebootDue(Exception):
    """Why the host has to be rebooted before the driver can serve."""
