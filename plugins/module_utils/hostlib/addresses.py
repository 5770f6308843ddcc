"""Addresses of hosts. Python 3.9's standard library only."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """True for what surely is a machine's loopback: 127.0.0.0/8, ::1 with or without brackets, and localhost.

    What listens there may be open to all, so that other names, which a resolver may lead elsewhere, don't count.
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
