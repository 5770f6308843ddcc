"""Errors of what runs on a gateway."""

from __future__ import annotations


class GatewayError(Exception):
    """Failure of a gateway: what is wrong and what to do, in one line."""


class GatewayDown(GatewayError):
    """Nothing listens at the gateway's socket: no request goes through it, either."""
