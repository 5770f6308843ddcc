"""The rights of another user, which root has to take where it lacks capabilities, as in most containers.

    inodes = as_its_user(pid, lambda: os.listdir(f"/proc/{pid}/fd"))
    with acting_as(uid, gid):
        os.access(path, os.R_OK, effective_ids=True)

Python 3.9's standard library only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def acting_as(uid: int, gid: int, groups: Collection[int] = ()) -> Iterator[None]:
    """Have a user's rights to files, and no others, until the block is left.

    Raises OSError where that is not allowed.
    """
    before = os.getgroups(), os.getegid(), os.geteuid()
    os.setgroups([*groups] or [gid])
    try:
        os.setegid(gid)
        os.seteuid(uid)
        yield
    finally:
        os.seteuid(before[2])
        os.setegid(before[1])
        os.setgroups(before[0])


def as_its_user(pid: int, look: Callable[[], T]) -> T:
    """Findings below /proc/PID, of which the kernel shows some to the process's user alone, and to root only with
    CAP_SYS_PTRACE. Raises OSError where nobody may look, or the process ended.
    """
    try:
        return look()
    except PermissionError:
        if os.geteuid() != 0:
            raise
    owner = os.stat(f"/proc/{pid}")
    with acting_as(owner.st_uid, owner.st_gid):
        return look()
