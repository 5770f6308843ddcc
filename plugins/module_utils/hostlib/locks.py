"""Locks between the runs on one host. Python 3.9's standard library only.

    with held(path, "build of b1", waiting=say) as descriptor:
        ...

The kernel lets go of a lock with the last process that holds it, so whatever ends a run, there is nothing to clean up.
flock(2) takes any file that one can open, be it for reading: a lock that others may open is theirs to hold. So a lock
belongs to who takes it and is open to nobody else, and what is not so is refused, or replaced where a former version
made it. No other code on hosts takes locks.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import pwd
import stat
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

POLL_SECONDS = 0.1
_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, process

Say = Callable[[str], None]


@dataclass(frozen=True)
class Holder:
    """The holder of a lock, as far as that is known."""

    pid: int | None = None
    what: str = ""
    since: str = ""

    def __str__(self) -> str:
        if self.pid is None:
            return "another run"
        what, since = f" ({self.what})" if self.what else "", f" since {self.since}" if self.since else ""
        return f"process {self.pid}{what}{since}"


class LockError(Exception):
    """A lock that can't be taken: why and what to do, in one line."""


class LockHeld(LockError):
    """Another run holds the lock, and was waited for long enough."""

    def __init__(self, path: str, holder: Holder) -> None:
        super().__init__(f"{holder} holds {path}: wait for its end")
        self.holder = holder


@contextlib.contextmanager
def held(
    path: str, what: str, *, wait: float = math.inf, waiting: Say = lambda line: None, formerly: str | None = None
) -> Iterator[int]:
    """Hold a lock, which ``what`` explains to those who wait for it.

    Yields the descriptor: a child that inherits it holds the lock, too.

    Args:
        path: of the file; it and its folder are made where they are missing.
        wait: how many seconds another run is waited for.
        waiting: is told for whom, at once and whenever that changes.
        formerly: the lock of the same thing in former versions. A run of theirs is waited for, then it is removed.

    Raises LockHeld, and LockError where another user owns the file, or it is no plain one.
    """
    deadline, announced = time.monotonic() + wait, None
    while not isinstance(lock := _taken(path, formerly), int):
        if time.monotonic() >= deadline:
            raise LockHeld(path, lock)
        if lock != announced:
            waiting(f"waiting for {lock}")
            announced = lock
        time.sleep(POLL_SECONDS)
    if announced:
        waiting(f"waited for {announced}")
    try:
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with contextlib.suppress(OSError):  # a full disk: it is for people
            os.ftruncate(lock, 0)
            os.pwrite(lock, json.dumps({"pid": os.getpid(), "what": what, "since": since}).encode(), 0)
        yield lock
    finally:
        os.close(lock)


def holder(path: str) -> Holder | None:
    """The holder of a lock; None where nobody holds it, and for those who may not know."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _signed(descriptor)
    finally:
        os.close(descriptor)
    return None


@contextlib.contextmanager
def held_with_programs(path: str, *, waiting: Say = lambda line: None) -> Iterator[None]:
    """Hold a lock that programs of the system take, as they do it: on a record of a file that is theirs (fcntl(2))."""
    announced = None
    with open(path, "a", encoding="utf-8") as stream:
        while True:
            try:
                fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                asked = fcntl.fcntl(stream, fcntl.F_GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, 0, 0, 0, 0))
                kind, _, _, _, pid = struct.unpack(_FLOCK, asked)
                other = Holder(pid, _program(pid)) if kind != fcntl.F_UNLCK and pid > 0 else Holder()
            if other != announced:
                waiting(f"waiting for {other}")
                announced = other
            time.sleep(POLL_SECONDS)
        yield


def _taken(path: str, formerly: str | None = None) -> int | Holder:
    """The descriptor of a lock, which is held from now on, or who holds it."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    if _is_open_to_others(path):
        # Two runs that find it must not replace each other's.
        guard = _taken(path + ".new")
        if isinstance(guard, Holder):
            return guard
        try:
            other = _retired(path) if _is_open_to_others(path) else None
            os.unlink(path + ".new")
        finally:
            os.close(guard)
        if other:
            return other
    try:
        descriptor = _opened(path)
    except FileNotFoundError:  # removed, with its folder perhaps, by who held it
        return _taken(path, formerly)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        other = _signed(descriptor)
        os.close(descriptor)
        return other
    if not _names(path, descriptor):  # removed since it was opened
        os.close(descriptor)
        return _taken(path, formerly)
    other = _retired(formerly) if formerly else None
    if other:
        os.close(descriptor)
        return other
    return descriptor


def _opened(path: str) -> int:
    """The descriptor of a file that nobody else can open, made where there is none.

    Raises LockError where it is not so.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        os.fchmod(descriptor, 0o600)  # whatever the umask is
    except FileExistsError:
        _require_own(path, os.lstat(path))
        descriptor = os.open(path, flags)
    try:
        _require_own(path, os.fstat(descriptor))  # the one that was opened
    except LockError:
        os.close(descriptor)
        raise
    return descriptor


def _require_own(path: str, status: os.stat_result) -> None:
    """Refuse a lock that somebody else may hold, or whose writer would write into another file."""
    if status.st_uid != os.geteuid():
        try:
            owner = pwd.getpwuid(status.st_uid).pw_name
        except KeyError:
            owner = "a user without a name"
        raise LockError(
            f"the lock {path} belongs to {owner} (uid {status.st_uid}), who could hold it for ever: remove it, and let "
            "nobody else write to its folder"
        )
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise LockError(f"the lock {path} is no plain file with one name: remove it")


def _is_open_to_others(path: str) -> bool:
    """True where a lock of this user is there that others can open, as former versions made them.

    To close it would not help: who has it open goes on holding it.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and bool(status.st_mode & 0o077)


def _retired(path: str) -> Holder | None:
    """Remove a former version's lock, unless a run of that holds it; then who that is.

    Such a run, and what it has started, has it open for writing. Everybody else could only read it, holds it without
    any right, and is left with a file that has no name.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    pid = _writer(path, status)
    if pid is not None:
        return Holder(pid, "a run of another version")
    os.unlink(path)
    return None


def _writer(path: str, wanted: os.stat_result) -> int | None:
    """A process of this user that has a file open for writing."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended, or is not ours to look into
            if os.stat(f"/proc/{pid}").st_uid != os.geteuid():
                continue
            for number in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    opened = f"/proc/{pid}/fd/{number}"
                    # By its name first: a look at a file of a server that is gone may never return.
                    named = os.readlink(opened).rpartition("/")[2] == os.path.basename(path)
                    if named and os.path.samestat(os.stat(opened), wanted) and _writes(pid, number):
                        return int(pid)
    return None


def _writes(pid: str, number: str) -> bool:
    """True for a descriptor of a process that is for writing."""
    with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii") as stream:
        flags = next(line.split()[1] for line in stream if line.startswith("flags:"))
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY


def _names(path: str, descriptor: int) -> bool:
    """True while a file still has this name."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _signed(descriptor: int) -> Holder:
    """The holder as the lock's file names it: a process signs the lock that it takes."""
    try:
        signature = json.loads(os.pread(descriptor, 4096, 0))
        # A child that was to hold the lock, too, may outlive it.
        ended = "" if os.path.exists(f"/proc/{signature['pid']}") else ", which has ended; what it started has not"
        return Holder(int(signature["pid"]), f"{signature['what']}{ended}", str(signature["since"]))
    except (OSError, ValueError, TypeError, KeyError):
        return Holder()  # it is just being written, or the disk is full


def _program(pid: int) -> str:
    """The name of a process's program."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""
