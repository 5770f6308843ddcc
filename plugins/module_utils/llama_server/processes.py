"""Processes of this host, as /proc tells: their children, what they compute and who they are."""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import pwd
import signal
import time
from collections.abc import Iterator

from ..hostlib.pids import argv_of
from .rights import as_its_user

TICKS = os.sysconf("SC_CLK_TCK")
BUSY_SHARE = 0.01  # of one core: a server that waits for requests needs less, one that computes many times more


def family(pid: int | None) -> set[int]:
    """A process and those that it started, as a router starts one for each model."""
    members, new = set(), {pid} if pid else set()
    while new:
        members |= new
        children: set[int] = set()
        for parent in new:
            for path in glob.glob(f"/proc/{parent}/task/*/children"):
                with contextlib.suppress(OSError), open(path, encoding="ascii") as stream:
                    children |= set(map(int, stream.read().split()))
        new = children - members
    return members


def with_variable(name: str, value: str) -> list[int]:
    """The processes that were started with a variable of this value, each after the one that started it."""
    wanted, found = f"{name}={value}".encode(), []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError):
            if wanted in as_its_user(pid, functools.partial(_environment, pid)):
                found.append(pid)
    return sorted(found, key=lambda pid: len(set(_ancestors(pid)) & set(found)))


def _environment(pid: int) -> list[bytes]:
    with open(f"/proc/{pid}/environ", "rb") as stream:
        return stream.read().split(b"\0")


def _ancestors(pid: int) -> Iterator[int]:
    """The processes above one, the nearest first."""
    while fields := stat_fields(pid):
        pid = int(fields[1])
        yield pid


def described(pid: int | None, uid: int = 0) -> str:
    """A process for people; ``uid``: its user, where no more is known."""
    if not pid:
        with contextlib.suppress(KeyError):
            return f"a process of user {pwd.getpwuid(uid).pw_name}"
        return f"a process of user {uid}"
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as stream:
        return f"process {pid} ({stream.read().strip()})"
    return f"process {pid}"


def end(pids: list[int], seconds: float) -> None:
    """End processes: politely, and after so many seconds by force, since one that computes may not listen."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(map(argv_of, pids)):
            time.sleep(0.1)


class Activity:
    """Work that a process and its children do from now on."""

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self._since = time.monotonic()
        self._before = _work(pid)

    def idle(self) -> bool:
        """True where they have neither computed nor read a model since."""
        seconds = time.monotonic() - self._since
        computed = faulted = 0
        for pid, (ticks, faults) in _work(self._pid).items():
            before = self._before.get(pid, (0, 0))
            computed += ticks - before[0]
            faulted += faults - before[1]
        return computed / TICKS <= BUSY_SHARE * seconds and faulted <= seconds


def _work(pid: int | None) -> dict[int, tuple[int, int]]:
    """By process the clock ticks that it has computed, and the pages that it had to wait for the disk for."""
    work = {}
    for member in family(pid):
        fields = stat_fields(member)
        if fields:
            work[member] = int(fields[11]) + int(fields[12]), int(fields[9])
    return work


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the program's name, which may hold anything; none where it ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            return stream.read().rpartition(")")[2].split()
    except OSError:
        return []
