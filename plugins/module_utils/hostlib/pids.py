"""Processes of this host, as /proc tells. Python 3.9's standard library only."""

from __future__ import annotations


def argv_of(pid: int) -> list[str]:
    """The arguments of a process, undecodable bytes replaced; none where it ended, and of the kernel's own."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            return stream.read().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []
