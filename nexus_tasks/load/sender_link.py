"""The sender processes, and the lines to them."""

from __future__ import annotations

import contextlib
import itertools
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import msgspec
import numpy as np

from nexus_tasks.core import provenance
from nexus_tasks.load.health import Stats
from nexus_tasks.load.interrupts import Interrupts
from nexus_tasks.load.reading import Segment
from nexus_tasks.load.requests import Limits
from nexus_tasks.load.sender import protocol
from nexus_tasks.servers import client
from nexus_tasks.servers.route import Route

Report = tuple[list[Any], Segment]
"""A message of :mod:`nexus_tasks.load.sender.protocol`, and the part of an answer that comes with it."""

_BUFFER_BYTES = 4 << 20
_START_S = 30.0


class SenderLink:
    """A process of :mod:`nexus_tasks.load.sender`, and the line to it.

    Args:
        number: of the process.
        users: of a closed loop, those that this process has; 0 in an open loop.
    """

    def __init__(self, number: int, users: int) -> None:
        self.number = number
        self.users = users
        self.outstanding = 0  # requests that the process has
        self.stats: Stats | None = None  # its last report
        self.line, theirs = socket.socketpair()
        for end in (self.line, theirs):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with it; a pipe would have to be emptied
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nexus_tasks.load.sender", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                cwd=provenance.ROOT,
                process_group=0,  # Ctrl-C is for this process, which decides what becomes of the others
            )
        self.line.setblocking(False)
        self._inbox = bytearray(_BUFFER_BYTES)  # used again and again: new memory costs more than what is read into it
        self._filled = 0  # bytes of it
        self._outbox = bytearray()

    @property
    def wants_to_write(self) -> bool:
        """True while a command waits for the line to take it."""
        return bool(self._outbox)

    def tell(self, command: bytes, content: bytes = b"") -> None:
        """Send a command; what the line can't take yet waits."""
        self.post(command, content)
        self.flush()

    def post(self, command: bytes, content: bytes) -> None:
        """Have a command wait for the next :meth:`flush`: one alone wakes the process up."""
        self._outbox += protocol.LENGTH.pack(len(content) + 1)
        self._outbox += command
        self._outbox += content

    def flush(self) -> None:
        """Send what waits, as far as the line takes it."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while self._outbox:
                del self._outbox[: self.line.send(self._outbox)]

    def receive(self) -> list[Report]:
        """The reports that came.

        Raises:
            EOFError: the process has ended.
        """
        if self._filled == len(self._inbox):
            self._inbox += bytes(len(self._inbox))  # a report is larger than any before
        with memoryview(self._inbox) as inbox:
            try:
                count = self.line.recv_into(inbox[self._filled :])
            except BlockingIOError:
                return []
            except ConnectionResetError:
                count = 0
            if not count:
                raise EOFError
            self._filled += count
            reports, at = _reports(inbox[: self._filled])
            self._filled -= at
            inbox[: self._filled] = inbox[at : at + self._filled]
        return reports

    def complaint(self) -> str:
        """The last line that it wrote before it died."""
        self.process.kill()
        self.process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self.process.returncode}"

    def close(self) -> None:
        """End it, whatever it does."""
        self.line.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=1)
        self.process.kill()
        self.process.wait()
        self._stderr.close()


class SenderLinks:
    """The sender processes of a stage; use as a context manager.

    Args:
        processes: how many.
        users: of a closed loop, shared among them; None in an open loop.
    """

    def __init__(self, processes: int, users: int | None) -> None:
        self.links: list[SenderLink] = []
        self._closed_loop = users is not None
        self._shares = [len(range(number, users or 0, processes)) for number in range(processes)]
        self._stack = contextlib.ExitStack()
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> SenderLinks:
        with contextlib.ExitStack() as stack:
            stack.callback(self._selector.close)
            for number, users in enumerate(self._shares):
                link = SenderLink(number, users)
                stack.callback(link.close)
                self._selector.register(link.line, selectors.EVENT_READ, link)
                self.links.append(link)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def ended(self) -> bool:
        """True when each process has sent its last report."""
        return all(link.stats is not None for link in self.links)

    def configure(self, way: Route, api_key: str | None, headers: Mapping[str, str], limits: Limits) -> None:
        """Tell each process its server. Raises as :func:`configuration` does."""
        for link in self.links:
            users = link.users if self._closed_loop else None
            config = configuration(way, api_key, headers, users, limits)
            link.tell(protocol.CONFIGURE, msgspec.msgpack.encode(config))

    def await_ready(self, interrupts: Interrupts) -> None:
        """Wait until each process has started.

        Raises:
            RuntimeError: one does not.
            KeyboardInterrupt: it came meanwhile.
        """
        ready: set[int] = set()
        deadline = time.perf_counter() + _START_S
        while len(ready) < len(self.links):
            if interrupts.came:
                raise KeyboardInterrupt
            for link, reports in self.received(0.1):
                if reports:
                    ready.add(link.number)
            if time.perf_counter() > deadline:
                raise RuntimeError(f"the load generator did not start within {_START_S:g} s")

    def tell(self, command: bytes, content: bytes = b"") -> None:
        """Send a command to each."""
        for link in self.links:
            link.tell(command, content)

    def received(self, timeout_s: float) -> list[tuple[SenderLink, list[Report]]]:
        """The reports, as soon as a process sends one; commands that had to wait are sent meanwhile.

        Raises:
            RuntimeError: a process died.
        """
        for link in self.links:
            if link.stats is not None:
                continue
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if link.wants_to_write else 0)
            if self._selector.get_key(link.line).events != wanted:
                self._selector.modify(link.line, wanted, link)
        received = []
        for key, events in self._selector.select(timeout_s):
            link = key.data
            if events & selectors.EVENT_WRITE:
                link.flush()
            if events & selectors.EVENT_READ:
                try:
                    received.append((link, link.receive()))
                except EOFError:
                    raise RuntimeError(f"a process of the load generator died: {link.complaint()}") from None
        return received

    def finished(self, link: SenderLink, stats: Stats) -> None:
        """Take a process's last report: nothing follows it."""
        link.stats = stats
        self._selector.unregister(link.line)


def _reports(inbox: memoryview) -> tuple[list[Report], int]:
    """The whole reports at the begin of what came, and their length in bytes."""
    header = protocol.HEADER
    reports = []
    at = 0
    while len(inbox) >= at + header.size:
        packed, pieces, size = header.unpack_from(inbox, at)
        edges = list(itertools.accumulate((header.size, packed, 8 * pieces, 4 * pieces, size), initial=at))
        if len(inbox) < edges[-1]:
            break
        _, meta, times, lengths, raw = (inbox[begin:end] for begin, end in itertools.pairwise(edges))
        ends = np.cumsum(np.frombuffer(lengths, dtype=np.uint32), dtype=np.int64)
        reports.append((msgspec.msgpack.decode(meta), Segment(np.frombuffer(bytes(times)), ends, bytes(raw))))
        at = edges[-1]
    return reports, at


def configuration(
    way: Route, api_key: str | None, headers: Mapping[str, str], users: int | None, limits: Limits
) -> protocol.Config:
    """Settings of a sender process: its server and its users.

    Raises:
        EndpointDown: the host's name is unknown.
        UsageError: a header or the key can't be sent.
    """
    way = way if way.addresses else way.resolved()
    lines = {
        "Host": way.authority,
        **client.request_headers(api_key, {"Content-Type": "application/json", **headers}),
    }
    return protocol.Config(
        addresses=list(way.addresses),
        port=way.port,
        trust=way.trust,
        host=way.host,
        prefix=way.prefix,
        head="".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode("ascii"),
        users=users,
        connect_s=limits.connect_s,
        token_s=limits.token_s,
        request_s=limits.request_s,
    )
