"""Errors of what runs on a gateway."""

from __future__ import annotations


class GatewayError(Exception):
    """Failure of a gateway: what is wrong and what to do, in one line."""
