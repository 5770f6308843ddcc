"""Progress of a fetch: one line in a file for whoever follows the job. Python 3.9's standard library only."""

from __future__ import annotations

import contextlib
import os
import threading
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

    def add_to_start(self, done: int) -> None:
        """Count so many bytes more, or fewer, as having been there before."""
        self._started_with += done

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


class Together:
    """The progress of several files that are fetched at the same time, in the one line of ``progress``."""

    def __init__(self, progress: Progress, count: int) -> None:
        self._progress, self._lock = progress, threading.Lock()
        self._done = [0] * count
        self._totals: list[int | None] = [None] * count
        self.stopped = threading.Event()
        """Set once one of them failed: the others stop where they are."""
        progress.start()

    def of(self, number: int, total: int | None = None) -> PartProgress:
        """The progress of one of them; ``total`` are its bytes, where they are known."""
        self._totals[number] = total
        return PartProgress(self, number)

    def begin(self, number: int, done: int) -> None:
        """Count what was there before of one of them."""
        with self._lock:
            added = done - self._done[number]
            self._done[number] = done
            self._progress.add_to_start(added)

    def show(self, number: int, done: int, total: int | None) -> None:
        """Say how far all of them are."""
        with self._lock:
            self._done[number], self._totals[number] = done, total or self._totals[number]
            known = [total for total in self._totals if total is not None]
            self._progress.show("downloaded", sum(self._done), sum(known) if len(known) == len(self._totals) else None)

    def say(self, line: str) -> None:
        """Show a line at once."""
        with self._lock:
            self._progress.say(line)


class StoppedError(Exception):
    """Another file of the same model failed, so this one need not go on."""


class PartProgress:
    """The part of one file in a progress of several; raises StoppedError once another has failed."""

    def __init__(self, together: Together, number: int) -> None:
        self._together, self._number = together, number

    def start(self, done: int = 0) -> None:
        """Begin to count the speed, behind so many bytes."""
        self._together.begin(self._number, done)

    def show(self, done: int, total: int | None) -> None:
        """Say how far it is, in bytes."""
        if self._together.stopped.is_set():
            raise StoppedError
        self._together.show(self._number, done, total)

    def say(self, line: str) -> None:
        """Show a line at once."""
        self._together.say(line)
