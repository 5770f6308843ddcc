"""Locks of files, for what several processes of the tests make or use: workers of one run, and other runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
from collections.abc import Iterator
from pathlib import Path

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


@contextlib.contextmanager
def lock(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock file: alone, or with others that want it shared."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


class Ports:
    """Numbers of TCP ports, each given to one process as long as that lives.

    A number is a byte of a file, which the process that was given it has locked.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)  # closing it would give all of them back
        self._given: set[int] = set()
        low, high = map(int, EPHEMERAL.read_text().split())
        # The kernel gives the others to whoever connects somewhere.
        numbers = range(10_000, 65_536)
        self._numbers = [port for port in numbers if not low <= port <= high] or list(numbers)

    def take(self) -> int:
        """One that this process was not given before, and no other has."""
        while True:
            port = random.choice(self._numbers)  # noqa: S311 - so that two runs seldom want the same
            if port not in self._given:
                with contextlib.suppress(BlockingIOError):
                    fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
                    self._given.add(port)
                    return port


class Turns:
    """Turns of tests in the workers of a run: most at the same time, some alone.

    Who wants to be alone takes the gate, at which the others have to pass, and waits for those that are inside.
    """

    def __init__(self, folder: Path) -> None:
        self._gate, self._inside = (os.open(folder / name, os.O_RDWR | os.O_CREAT) for name in ("gate", "inside"))

    def begin(self, *, alone: bool) -> None:
        """Wait for a turn."""
        how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        fcntl.flock(self._gate, how)
        fcntl.flock(self._inside, how)
        if not alone:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    def end(self) -> None:
        """Let the others in."""
        fcntl.flock(self._inside, fcntl.LOCK_UN)
        fcntl.flock(self._gate, fcntl.LOCK_UN)
