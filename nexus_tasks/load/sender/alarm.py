"""A timer of some ten microseconds; the event loop's own timers know milliseconds only."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
from collections.abc import Callable
from time import perf_counter


class Alarm:
    """Calls back at a moment.

    Linux has a clock that is a file (timerfd). Elsewhere the loop's timers have to do.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._fd = -1
        self._handle: asyncio.TimerHandle | None = None
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._fd = self._libc.timerfd_create(1, os.O_NONBLOCK | os.O_CLOEXEC)  # CLOCK_MONOTONIC
        if self._fd >= 0:
            loop.add_reader(self._fd, self._fired)

    def at(self, moment: float) -> None:
        """Call back at ``moment``, now where that is over; replaces what was asked before."""
        if self._fd < 0:
            if self._handle:
                self._handle.cancel()
            self._handle = self._loop.call_later(max(moment - perf_counter(), 0), self._callback)
            return
        seconds, fraction = divmod(max(moment, 1e-6), 1)  # all zeros would stop it
        value = (ctypes.c_long * 4)(0, 0, int(seconds), int(fraction * 1e9))
        self._libc.timerfd_settime(self._fd, 1, value, None)  # TFD_TIMER_ABSTIME

    def _fired(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)
        self._callback()
