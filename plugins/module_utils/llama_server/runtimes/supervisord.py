"""supervisord's configuration, and its interface: XML-RPC over HTTP over its unix socket."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import time
import xmlrpc.client
from collections.abc import Iterable
from typing import Any

from ...hostlib.limited_socket import limit
from ...hostlib.supervisor import command, value
from ..errors import HostError
from ..folder import STARTED
from .base import STOP_SECONDS, Settings

SHUTTING_DOWN = 6  # supervisor.xmlrpc.Faults.SHUTDOWN_STATE


def log_of(settings: Settings, name: str) -> str:
    """The file that a program's output goes to."""
    return os.path.join(settings.logs, f"{name}.log")


def configuration(settings: Settings, names: Iterable[str]) -> str:
    """The text of the configuration with these instances as programs, each by the launcher that was started last."""
    parts = [
        "; Written by Ansible, role llama_server.",
        "[unix_http_server]\nfile = %(here)s/supervisor.sock\nchmod = 0700",
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
        "[supervisorctl]\nserverurl = unix://%(here)s/supervisor.sock",
        "[supervisord]\npidfile = %(here)s/supervisord.pid\n"
        f"logfile = {value(settings.logs)}/supervisord.log\nlogfile_maxbytes = 10MB\nlogfile_backups = 2\n"
        f"childlogdir = {value(settings.logs)}",
    ]
    for name in sorted(names):
        folder = os.path.join(settings.root, name)
        argv = [settings.supervisor_python, "-I", os.path.join(folder, STARTED, "launch.py"), folder]
        parts.append(
            f"[program:{name}]\n"
            f"command = {command(argv)}\n"
            f"directory = {value(folder)}\n"
            f"stdout_logfile = {value(log_of(settings, name))}\n"
            "stdout_logfile_maxbytes = 50MB\nstdout_logfile_backups = 3\n"
            "redirect_stderr = true\nautostart = false\nautorestart = true\n"
            # One that dies within this time after its start is tried three times more and then left alone, FATAL.
            "startsecs = 30\nstartretries = 3\n"
            "stopsignal = TERM\nstopwaitsecs = 30\nkillasgroup = true\nstopasgroup = true"
        )
    return "\n\n".join(parts) + "\n"


class ShuttingDown(ConnectionRefusedError):
    """supervisord takes no more orders."""


def connect(path: str) -> xmlrpc.client.ServerProxy:
    """The interface of the supervisord that listens on a socket; nothing is sent yet.

    A call raises OSError where nobody listens, ShuttingDown where it takes no more orders, and HostError with what
    supervisord refuses.
    """
    return xmlrpc.client.ServerProxy("http://supervisor", transport=_UnixTransport(path))


def reach(path: str) -> xmlrpc.client.ServerProxy | None:
    """The interface of one that runs, else None; one that is shutting down is waited for."""
    proxy = connect(path)
    deadline = time.monotonic() + STOP_SECONDS
    while True:
        try:
            proxy.supervisor.getState()
            return proxy
        except OSError as error:
            if not isinstance(error, ShuttingDown):
                return None
            if time.monotonic() > deadline:
                raise HostError(f"supervisord does not end within {STOP_SECONDS} s: end it") from error
            time.sleep(0.2)


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
