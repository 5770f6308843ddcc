"""Ports that a service is to listen on. Python 3.9's standard library only."""

from __future__ import annotations

import errno
import socket

from .errors import ServiceError


def is_taken(host: str, port: int, *, variable: str) -> bool:
    """True where something listens on the port.

    Args:
        variable: that of the role which names the address, for the error.

    Raises:
        ServiceError: the address is not one of this host, or this user may not listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            if error.errno == errno.EACCES:
                raise ServiceError(
                    f"port {port} of {host} is for root alone: choose one above 1023, or deploy as root"
                ) from error
            raise ServiceError(
                f"{variable} {host} can't be listened on ({error.strerror}): name an address of this host"
            ) from error
    return False


def connect(address: str, port: int, seconds: float) -> None:
    """See that something takes connections there: opens one, and closes it without a word.

    Raises:
        OSError: nothing does, or not within so many seconds.
    """
    socket.create_connection((address, port), seconds).close()


def reached(host: str) -> str:
    """The address at which what listens on ``host`` is asked from its own host."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
