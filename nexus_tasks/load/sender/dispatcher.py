"""Dispatches requests, in an open loop when they are due, in a closed loop as soon as a user is free."""

from __future__ import annotations

import asyncio
import collections
import gc
from time import perf_counter, process_time
from typing import Any

import msgspec

from nexus_tasks.load.sender import protocol
from nexus_tasks.load.sender.alarm import Alarm
from nexus_tasks.load.sender.connection import Failure, Transfer
from nexus_tasks.load.sender.lag import LagProbe
from nexus_tasks.load.sender.line import Line
from nexus_tasks.load.sender.pool import Pool
from nexus_tasks.load.sender.protocol import Ask, Config

_SWEEP_S = 0.25
_BACKLOG_PAUSE_S = 0.005


class Dispatcher:
    """Does what the generator's commands say, and reports what came of each request."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.line = Line(loop, self._on_command, self._serve_users)
        self._loop = loop
        self._pool = Pool(loop, self._ended)
        self._users: int | None = None
        self._ready: collections.deque[Ask] = collections.deque()
        self._free = 0  # users who wait for nothing
        self._stopped = False
        self._behind = False  # whether users ever waited for the generator to read
        self._counts_from = 0.0
        self._duration_s: float | None = None
        self._begun = 0.0
        self._cpu_begun = 0.0
        self._last_end = 0.0
        self._cpu_end = 0.0
        self._alarm = Alarm(loop, self._serve_due)
        self._lag = LagProbe(loop)
        self._sweep_s = _SWEEP_S
        self._decoder = msgspec.msgpack.Decoder(Ask)

    # commands

    def _on_command(self, letter: bytes, content: bytes) -> None:
        if letter == protocol.ASK:
            self._ask(self._decoder.decode(content))
        elif letter == protocol.CONFIGURE:
            self._configure(msgspec.msgpack.decode(content, type=Config))
        elif letter == protocol.GO:
            self._go(*msgspec.msgpack.decode(content, type=tuple[float, float, float | None]))
        elif letter == protocol.RELEASE:
            self._user_waits(msgspec.msgpack.decode(content, type=float))
        elif letter == protocol.STOP:
            self._stop()
        elif letter == protocol.ABORT:
            self._abort()
        elif letter == protocol.FINISH:
            self._finish()

    def _ask(self, ask: Ask) -> None:
        if ask.continues and not self._stopped:
            self._start(ask)
        else:
            self._ready.append(ask)
            if self._stopped:
                self._drop()
            elif ask.intended is not None and len(self._ready) == 1:
                self._alarm.at(ask.intended)

    def _configure(self, config: Config) -> None:
        self._pool.configure(config)
        self._users = config.users
        shortest = min(config.token_s, config.request_s or config.token_s)
        self._sweep_s = min(max(shortest / 10, 0.005), _SWEEP_S)
        gc.collect()
        gc.freeze()
        self.line.tell([protocol.READY])

    def _go(self, begin: float, ramp_s: float, duration_s: float | None) -> None:
        """Begin at ``begin``; users come one after another within ``ramp_s``; then requests begin for so long."""
        self._begun = begin
        self._cpu_begun = process_time()
        self._counts_from = begin + ramp_s
        self._duration_s = duration_s
        self._lag.start()
        self._loop.call_later(self._sweep_s, self._sweep)
        users = self._users or 0
        if ramp_s and users:
            for user in range(users):
                self._loop.call_later(max(begin - perf_counter() + ramp_s * user / users, 0), self._user_free)
        else:
            self._loop.call_later(max(begin - perf_counter(), 0), self._users_come, users)

    # users of a closed loop

    def _users_come(self, users: int) -> None:
        self._free += users
        self._serve_users()

    def _user_free(self) -> None:
        self._free += 1
        self._serve_users()

    def _user_waits(self, seconds: float) -> None:
        if seconds:
            # uvloop's timers count in whole milliseconds, and one may be early by as much: no shorter than was asked.
            self._loop.call_later(seconds + 0.001, self._user_free)
        else:
            self._user_free()

    def _serve_users(self) -> None:
        """Begin what may begin in a closed loop."""
        ready = self._ready
        while self._free and ready and not self._stopped and ready[0].intended is None:
            if self.line.is_full:
                self._behind = True
                self._loop.call_later(_BACKLOG_PAUSE_S, self._serve_users)
                return
            self._free -= 1
            self._start(ready.popleft())

    # arrivals of an open loop

    def _serve_due(self) -> None:
        """Begin what is due in an open loop."""
        ready = self._ready
        while ready and not self._stopped:
            intended = ready[0].intended
            if intended is None:
                break
            if intended > perf_counter():
                self._alarm.at(intended)
                break
            self._start(ready.popleft())

    # requests

    def _start(self, ask: Ask) -> None:
        transfer = Transfer(ask, perf_counter())
        if self._duration_s is not None and ask.counts and transfer.begun >= self._counts_from:
            self._loop.call_later(self._duration_s, self._stop)
            self._duration_s = None
        self._pool.send(transfer)

    def _ended(
        self, transfer: Transfer, times: list[float], parts: list[bytes], failure: Failure | None, waits_s: float
    ) -> None:
        ended = perf_counter()
        self._last_end, self._cpu_end = ended, process_time()
        meta: list[Any] = [
            protocol.END, transfer.ask.id, transfer.begun, transfer.sent, ended,
            [failure.kind, failure.message] if failure else None,
        ]  # fmt: skip
        self.line.hand_on(meta, times, parts)
        if self._users is not None and not transfer.ask.hold:
            self._user_waits(waits_s)

    def _sweep(self) -> None:
        self._pool.sweep(self.line)
        if self._begun and self._last_end:
            gc.collect(0)
        self._loop.call_later(self._sweep_s, self._sweep)

    # the end

    def _drop(self) -> None:
        if self._ready:
            self.line.tell([protocol.DROPPED, [ask.id for ask in self._ready]])
            self._ready.clear()

    def _stop(self) -> None:
        """Begin nothing any more; what is under way goes on."""
        if not self._stopped:
            self._stopped = True
            self.line.tell([protocol.STOPPED])
        self._drop()
        self._pool.close_idle()

    def _abort(self) -> None:
        """Give up what is under way."""
        self._stop()
        self._pool.abort()
        self._finish()

    def _finish(self) -> None:
        if self.line.is_packing:
            self._loop.call_soon(self._finish)
            return
        wall_s = max(self._last_end - self._begun, 1e-9)
        self.line.tell([
            protocol.STATS,
            {
                "cpu": max(self._cpu_end - self._cpu_begun, 0.0) / wall_s if self._last_end else 0.0,
                "cpu_s": self._cpu_end - self._cpu_begun if self._last_end else 0.0,
                "lag": self._lag.delays.counts,
                "lag_max": self._lag.delays.largest,
                "behind": self._behind,
            },
        ])  # fmt: skip
        self.line.close()
