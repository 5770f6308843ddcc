"""Processes of a service, by their arguments, and their end. Python 3.9's standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable

from ..hostlib.pids import argv_of
from .errors import ServiceError

STOP_SECONDS = 20


def with_argument(*words: str) -> list[int]:
    """The processes that have each of these words among their arguments."""
    return [
        int(name)
        for name in os.listdir("/proc")
        if name.isdigit()
        for argv in [argv_of(int(name))]
        if argv and all(word in argv for word in words)
    ]


def end(processes: Iterable[int]) -> None:
    """End processes and wait for it. Raises ServiceError where one goes on.

    None is killed, unlike a server that hangs (``llama_server/processes.py``): supervisord would leave its program.
    """
    pids = list(processes)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while left := [pid for pid in pids if argv_of(pid)]:
        if time.monotonic() > deadline:
            raise ServiceError(f"process {left[0]} does not end: end it, and deploy again")
        time.sleep(0.1)
