"""Requests to an instance's server, which tell nobody a key before it is known who hears it.

    server = Server(config, status.pid)
    code, answer = server.ask("/slots", key=key)

While a port is free for a moment, anybody on the host can listen there and answer 200. So each connection is looked up
in the kernel's table of sockets before anything is sent over it: its other end must be among the descriptors of the
process that the runtime started. That holds for this very connection, whoever else listens on the port, at a more
precise address or along with the process.

A server that hangs or was taken over may answer without an end. Every answer has one, in seconds and in bytes, so that
a drain, a stop or a rollback comes to its own.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from ..hostlib.instances import Instance
from ..hostlib.limited_socket import limit
from . import sockets
from .errors import HostError
from .processes import Activity, described, family, stat_fields

REQUEST_SECONDS = 120
LOOK_SECONDS = 5  # a server that is stuck must not keep whoever looks
EVERY_SECONDS = 1  # how often it is looked what keeps an answer
SETTLED_SECONDS = 2  # an accepted connection has an inode some microseconds before it has a descriptor
MAX_DIGITS = 1000
TRIES = 3  # connections that break off before anything is said


class Stranger(HostError):
    """Another process than the instance's answers. ``who``: that one, as far as that can be told."""

    def __init__(self, message: str, who: str) -> None:
        super().__init__(message)
        self.who = who


class Hidden(HostError):
    """It can't be told who answers, so no key is sent."""


class Unanswered(OSError):
    """The process has the request, or takes no connection, and time is up.

    ``idle``: whether it did nothing all the while, so that waiting longer is of no use.
    """

    def __init__(self, seconds: float, idle: bool) -> None:
        doing = "and its process does nothing" if idle else "while its process is at work"
        super().__init__(f"no answer within {seconds:.0f} s, {doing}")
        self.idle = idle


def _integer(digits: str) -> int:
    """A number of an answer. To read one of millions of digits takes Python minutes."""
    if len(digits) > MAX_DIGITS:
        raise ValueError("a number that is too long")
    return int(digits)


class Server:
    """An instance's server, as who asks it sees it.

    Args:
        config: its generation.
        pid: the process that its runtime started; None: it says that none runs.
    """

    def __init__(self, config: Instance, pid: int | None) -> None:
        parts = urlsplit(config.local_url)
        self.host, self.port = str(parts.hostname), int(parts.port or 80)
        self.name = config.name
        self.pid = pid
        self._born = self._age()

    def ask(
        self, path: str, *, key: str | None = None, body: dict[str, Any] | None = None,
        timeout: float = REQUEST_SECONDS, meanwhile: Callable[[], None] | None = None,
    ) -> tuple[int, Any]:  # fmt: skip
        """One request: the status and the JSON that came with it. This is the only place that sends a key.

        Args:
            path: behind the address; where it is redirected to is not asked.
            key: sent only to the instance's own process.
            body: makes it a POST.
            timeout: seconds until all of the answer is there; with ``meanwhile`` from its first byte on.
            meanwhile: called each second in which no answer comes; what it raises ends the request.

        Raises:
            Stranger: another process answers; nothing was sent to it.
            Hidden: there is a key, and it can't be told who would get it.
            Unanswered: time is up.
            AnswerTooLong: it has no end, or one that is far away.
            OSError: nobody answers.
            HTTPException: who answers does not speak HTTP.
        """
        with self._connected(timeout) as (connection, is_ours):
            headers = {"Content-Type": "application/json", "Connection": "close"}
            if key:
                if not is_ours:
                    raise Hidden(self._hidden())
                headers["Authorization"] = f"Bearer {key}"
            connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
            if meanwhile:
                while not select.select([connection.sock], [], [], EVERY_SECONDS)[0]:
                    meanwhile()
                limit(connection, timeout)
            answer = connection.getresponse()
            status, raw = answer.status, answer.read()
        try:
            return status, json.loads(raw, parse_int=_integer)
        except (ValueError, RecursionError):
            return status, {}

    def is_listening(self) -> bool:
        """True where the process takes the connections to its address; False where that can't be told.

        Raises Stranger where another one does, Unanswered where it takes none, and OSError where nobody listens.
        """
        with self._connected(LOOK_SECONDS) as (_, is_ours):
            return is_ours

    def clients(self) -> int | None:
        """Open connections to its port, also those that it has not accepted yet; None where that can't be
        told. Each is a request that waits or is answered, or one that was answered some seconds ago.
        """
        own = sockets.descriptors(self.pid)
        if own is None:
            return None
        return sum(
            entry.state == sockets.ESTABLISHED and entry.inode in {*own, "0"} for entry in sockets.at_port(self.port)
        )

    def is_alive(self) -> bool:
        """True while the process is there."""
        return self._born is not None and self._age() == self._born

    @contextlib.contextmanager
    def _connected(self, timeout: float) -> Iterator[tuple[http.client.HTTPConnection, bool]]:
        """A connection, and whether its other end is known to be the process's."""
        activity, began = Activity(self.pid), time.monotonic()
        # No proxy: the server is on this host, whatever the environment says.
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        connection.auto_open = 0  # a second connection could be to somebody else
        try:
            is_ours = self._taken(connection, timeout)
            limit(connection, timeout - (time.monotonic() - began))
            yield connection, is_ours
        except socket.timeout as error:  # of Python 3.9 it is no TimeoutError
            raise Unanswered(timeout, activity.idle()) from error
        finally:
            connection.close()

    def _taken(self, connection: http.client.HTTPConnection, timeout: float) -> bool:
        """Connect, and say whether the other end is known to be the process's.

        Who asks may be kept waiting by a machine that has more to do, and llama-server hangs up on who says nothing for
        some seconds. Nothing was said yet, so that can be tried again.
        """
        for _ in range(TRIES - 1):
            with contextlib.suppress(ConnectionResetError):
                connection.connect()
                return self._is_ours(connection.sock, timeout)
            connection.close()
        connection.connect()
        return self._is_ours(connection.sock, timeout)

    def _is_ours(self, connection: socket.socket, timeout: float) -> bool:
        """True where the other end of a connection is the process's; False where that can't be told.

        Raises Stranger where it is another's, ConnectionResetError where it broke off, and socket.timeout where nobody
        takes it.
        """
        here, there = sockets.end_of(*connection.getsockname()[:2]), sockets.end_of(*connection.getpeername()[:2])
        began = time.monotonic()
        unheld: tuple[str, float] | None = None  # a socket that nobody holds who may be looked at, and since when
        while True:
            ends = [entry for entry in sockets.at_port(self.port) if (entry.local, entry.remote) == (there, here)]
            own = sockets.descriptors(self.pid)  # None where they can't be read
            if own and ends and ends[0].inode in own:
                if not self.is_alive():  # the number has passed to another process
                    raise ConnectionResetError(f"process {self.pid} has ended")
                return True
            now = time.monotonic()
            if ends and ends[0].state not in (sockets.ESTABLISHED, sockets.HANDSHAKE):
                self._look_who_listens(own)
                raise ConnectionResetError("it broke off")
            if ends and ends[0].inode != "0":
                taker = sockets.process_holding(ends[0].inode)
                if taker and taker not in family(self.pid):
                    raise self._stranger(taker, ends[0].uid)
                if own is None and not taker:
                    return False
                if unheld is None or unheld[0] != ends[0].inode:
                    unheld = ends[0].inode, now
                elif now - unheld[1] > SETTLED_SECONDS:
                    raise self._stranger(None, ends[0].uid)
            elif now - began > SETTLED_SECONDS:
                self._look_who_listens(own)
                if own is None or not ends:  # a kernel whose tables don't show it
                    return False
                if now - began > timeout:
                    raise socket.timeout("it takes no connection")
            time.sleep(0.002 if now - began < 0.1 else 0.05)

    def _look_who_listens(self, own: set[str] | None) -> None:
        """Raise Stranger where another process listens at the address. ``own``: the sockets of the instance's."""
        for entry in sockets.listeners(self.host, self.port):
            if entry.inode not in (own or ()):
                owner = sockets.process_holding(entry.inode)
                if owner or own is not None:
                    raise self._stranger(owner, entry.uid)

    def _age(self) -> str | None:
        """The moment at which the process was started; None where it ended."""
        fields = stat_fields(self.pid) if self.pid else []
        return fields[19] if fields else None

    def _stranger(self, pid: int | None, uid: int) -> Stranger:
        who = described(pid, uid)
        expected = f"process {self.pid} of instance {self.name}" if self.pid else f"instance {self.name}, which is down"
        return Stranger(
            f"port {self.port} on {self.host} is held by {who}, not by {expected}: end that one, or give the instance "
            "another port; no key was sent",
            who,
        )

    def _hidden(self) -> str:
        return (
            f"who answers on port {self.port} can't be told, since the descriptors of process {self.pid} of instance "
            f"{self.name} can't be read: deploy as its user, or as root, which in a container needs CAP_SYS_PTRACE; no "
            "key was sent"
        )
