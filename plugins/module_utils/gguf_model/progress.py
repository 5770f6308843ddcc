"""Progress of a fetch: one line in a file for whoever follows the job. Python 3.9's standard library only."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

from ..hostlib.files import write_line
from .errors import MIB, one_line

GIB = 1 << 30


class Progress:
    """One line in a file, rewritten about once a second."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self.start()

    def start(self, done: int = 0) -> None:
        """Begin to count the speed.

        Args:
            done: bytes that were there before.
        """
        self._started_at = self._written_at = self._clock()
        self._started_with = done

    def show(self, verb: str, done: int, total: int | None) -> None:
        """Say how far it is, in bytes, unless that was said within the last second."""
        now = self._clock()
        if now - self._written_at < 1:
            return
        rate = (done - self._started_with) / MIB / max(now - self._started_at, 0.001)
        amount = f"{done / GIB:.1f} of {total / GIB:.1f} GiB" if total else f"{done / GIB:.1f} GiB"
        if total and total < GIB:
            amount = f"{done / MIB:.0f} of {total / MIB:.0f} MiB"
        self.say(f"{verb} {amount}, {rate:.0f} MiB/s")
        self._written_at = now

    def say(self, line: str) -> None:
        """Show a line at once."""
        # A full disk must not hide what the job itself has to say about it.
        with contextlib.suppress(OSError):
            write_line(self._path, one_line(line))

    def end(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)
