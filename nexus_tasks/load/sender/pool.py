"""The connections of a sender process: idle ones are used again, and those under way are looked after."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

from nexus_tasks.core import tls
from nexus_tasks.load.sender.connection import NO_ANSWER, Connection, Failure, Transfer, error_text
from nexus_tasks.load.sender.line import SLICE, boundary
from nexus_tasks.load.sender.protocol import CONNECT_PAUSE_S, PART, Config, pause_s

OnEnd = Callable[[Transfer, list[float], list[bytes], Failure | None, float], None]


class Taker(Protocol):
    """Takes the beginnings of answers that are too long to keep: :class:`nexus_tasks.load.sender.line.Line` is one."""

    @property
    def is_packing(self) -> bool:
        """True while it can't take any."""

    def hand_on(self, meta: list[Any], times: list[float], parts: list[bytes]) -> None:
        """Take stamps and pieces; ``meta`` is [PART, id]."""


class Pool:
    """Sends requests, each over a connection that is free or over a new one.

    Args:
        on_end: gets a request that ended: stamps and pieces of its answer, its failure, and the seconds that its
            user waits before asking again.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_end: OnEnd) -> None:
        self.config: Config
        self.hangs_up = False  # whether the server closes after an answer that could have kept its connection
        self._loop = loop
        self._on_end = on_end
        self._idle: list[Connection] = []
        self._active: dict[Connection, None] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._keeps = True  # connections, for requests to come
        self._address = 0
        self._tls: ssl.SSLContext | None = None

    def configure(self, config: Config) -> None:
        """Take the address and what belongs to it."""
        self.config = config
        if config.trust is not None:
            self._tls = tls.context(config.trust)

    def send(self, transfer: Transfer) -> None:
        """Send a request."""
        if self._idle:
            connection = self._idle.pop()
            self._active[connection] = None
            connection.send(transfer)
        else:
            self.connect(transfer)

    def connect(self, transfer: Transfer) -> None:
        """Send a request over a connection of its own."""
        task = self._loop.create_task(self._connect(transfer))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, transfer: Transfer) -> None:
        config = self.config
        failure = Failure("connect", "the host has no address")
        for turn in range(len(config.addresses)):
            address = (self._address + turn) % len(config.addresses)
            try:
                async with asyncio.timeout(config.connect_s):
                    _, connection = await self._loop.create_connection(
                        lambda: Connection(self),
                        config.addresses[address],
                        config.port,
                        ssl=self._tls,
                        server_hostname=config.host if self._tls else None,
                    )
            except TimeoutError:
                failure = Failure("connect", f"no connection within {config.connect_s:g} s")
            except (OSError, ssl.SSLError) as error:
                failure = Failure("connect", error_text(error))
            else:
                self._address = address
                self._active[connection] = None
                if connection.transport is None:
                    self.ended(connection, transfer, Failure("disconnected", NO_ANSWER))
                    return
                connection.send(transfer)
                return
        transfer.sent = perf_counter()
        self._on_end(transfer, [], [], failure, CONNECT_PAUSE_S)

    def ended(self, connection: Connection, transfer: Transfer, failure: Failure | None) -> None:
        """A request ended: its connection may serve another, its user as well."""
        self._active.pop(connection, None)
        kind = failure.kind if failure else None
        waits_s = pause_s(kind, connection.retry_after_s, answered=bool(connection.times))
        times, parts = connection.times[:], connection.parts[:]
        connection.times.clear()
        connection.parts.clear()
        if connection.transport is not None and not connection.transport.is_closing():
            if connection.answer.keeps_connection and not self.hangs_up and self._keeps and failure is None:
                self._idle.append(connection)
            else:
                connection.closing = True
                connection.transport.close()
        self._on_end(transfer, times, parts, failure, waits_s)

    def forget(self, connection: Connection) -> None:
        """The connection is closed."""
        self._active.pop(connection, None)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    def sweep(self, line: Taker) -> None:
        """Look after requests: time limits, ends that were missed, answers too long to keep."""
        now = perf_counter()
        limits = self.config
        for connection in list(self._active):
            connection.check_end()
            transfer = connection.transfer
            if transfer is None:
                continue
            parts = connection.parts
            begun = connection.is_unfinished_since
            if now - connection.silent_since() > limits.token_s:
                keeps = bool(parts) and now - connection.times[-1] <= limits.token_s
                what = "nothing but keep-alive messages" if keeps else "nothing arrived"
                connection.fail(Failure("timeout", f"{what} for {limits.token_s:g} s"))
            elif begun is not None and now - begun > limits.token_s:
                connection.fail(Failure("timeout", f"the answer was not whole {limits.token_s:g} s after it began"))
            elif limits.request_s is not None and now - transfer.begun > limits.request_s:
                connection.fail(Failure("timeout", f"not at its end after {limits.request_s:g} s"))
            elif len(parts) > 2 * SLICE and not connection.look_closely and not line.is_packing:
                line.hand_on([PART, transfer.ask.id], *connection.cut(boundary(parts, len(parts) - SLICE)))

    def close_idle(self) -> None:
        """Keep no connection for later requests any more."""
        self._keeps = False
        for connection in self._idle:
            if connection.transport:
                connection.transport.close()
        self._idle.clear()

    def abort(self) -> None:
        """Give up what is under way."""
        for task in self._connecting:
            task.cancel()
        for connection in list(self._active):
            connection.transfer = None
            if connection.transport:
                connection.transport.abort()
        self._active.clear()
