"""What another user of this machine can do; only root can be one.

with holding(path):       # he has opened it while he could, and holds its lock
    ...
assert attempt(os.open, path, os.O_RDONLY) == "PermissionError"
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
_processes = multiprocessing.get_context("fork")


def become() -> None:
    """Be nobody from now on."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


@contextlib.contextmanager
def doing(do: Callable[[], Any]) -> Iterator[None]:
    """Another user has done this, and stays."""

    def stay(done: Any) -> None:
        become()
        kept = do()
        done.set()
        signal.pause()
        del kept

    done = _processes.Event()
    process = _processes.Process(target=stay, args=(done,))
    process.start()
    try:
        assert done.wait(60)
        yield
    finally:
        process.kill()
        process.join()


@contextlib.contextmanager
def holding(path: Path | str) -> Iterator[None]:
    """Another user holds the lock of a file that he has opened for reading, wherever it lies."""
    with open(path, "rb") as stream, doing(lambda: fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)):  # noqa: PTH123 - a text
        # What this process has open is the same description, and would be held as well.
        stream.close()
        yield


def attempt(do: Callable[..., Any], *arguments: Any) -> str:
    """What comes of another user's attempt: the name of its exception; empty where it succeeds."""

    def child(told: Any) -> None:
        become()
        try:
            do(*arguments)
        except OSError as error:
            told.send(type(error).__name__)
        else:
            told.send("")

    here, there = _processes.Pipe()
    process = _processes.Process(target=child, args=(there,))
    process.start()
    assert here.poll(60)
    found: str = here.recv()
    process.join()
    return found
