"""supervisord's interface: XML-RPC over HTTP over its unix socket."""

from __future__ import annotations

import errno
import http.client
import socket
import xmlrpc.client
from typing import Any

from ...hostlib.limited_socket import limit
from ..errors import HostError
from .base import STOP_SECONDS

SHUTTING_DOWN = 6  # supervisor.xmlrpc.Faults.SHUTDOWN_STATE


class ShuttingDown(ConnectionRefusedError):
    """supervisord takes no more orders."""


def connect(path: str) -> xmlrpc.client.ServerProxy:
    """The interface of the supervisord that listens on a socket; nothing is sent yet.

    A call raises OSError where nobody listens, ShuttingDown where it takes no more orders, and HostError with what
    supervisord refuses.
    """
    return xmlrpc.client.ServerProxy("http://supervisor", transport=_UnixTransport(path))


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket, which is where supervisord listens."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(STOP_SECONDS)
        try:
            self.sock.connect(self.host)
        except OSError:
            self.sock.close()
            raise
        limit(self, STOP_SECONDS)


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def request(self, *args: Any, **options: Any) -> Any:
        try:
            return super().request(*args, **options)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == SHUTTING_DOWN:
                raise ShuttingDown(errno.ECONNREFUSED, "supervisord is shutting down", self.path) from fault
            raise HostError(f"supervisord refuses: {fault.faultString}") from fault
        except xmlrpc.client.ProtocolError as error:
            raise HostError(f"supervisord refuses: {error.errmsg}") from error
        except http.client.HTTPException as error:
            raise ConnectionResetError(errno.ECONNRESET, "supervisord broke off", self.path) from error
        finally:
            self.close()

    def make_connection(self, host: Any) -> _UnixConnection:
        connection = _UnixConnection("supervisor")
        connection.host = self.path
        self._connection = host, connection  # where close() looks for it
        return connection
