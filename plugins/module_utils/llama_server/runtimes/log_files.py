"""Log files of supervisor: of all lives of an instance, in parts that are rotated.

files = parts("/var/log/main.log")     # [main.log, main.log.1, main.log.2], the newest first
life(files, 4711)                      # the first lines of a process, from its launch on
"""

from __future__ import annotations

import contextlib
import glob
import mmap
import os
from collections.abc import Sequence

from .base import LOG_BYTES

LAUNCH = "launch: "  # how each line of the launcher begins


def parts(newest: str) -> list[str]:
    """The files of a log, the newest first."""
    return [newest, *sorted(glob.glob(glob.escape(newest) + ".*"))]


def life(files: Sequence[str], pid: int | None) -> list[str]:
    """The first lines of a process, ``LOG_BYTES`` at most; none where the line is gone with which it began."""
    # Searched from the end: an earlier process had this number, too.
    begin, text = f"{LAUNCH}process {pid} ".encode(), b""
    for path in files:
        with contextlib.suppress(OSError, ValueError), open(path, "rb") as stream:  # ValueError: it is empty
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                at = content.rfind(b"\n" + begin) + 1
                is_there = at > 0 or content[: len(begin)] == begin
                text = content[at : at + LOG_BYTES] + text[:LOG_BYTES]
            if is_there:
                return text[:LOG_BYTES].decode(errors="replace").splitlines()
    return []


def end(files: Sequence[str]) -> list[str]:
    """The last lines, ``LOG_BYTES`` at most."""
    text = b""
    for path in files:
        with contextlib.suppress(OSError), open(path, "rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - LOG_BYTES + len(text)))
            text = stream.read() + text
        if len(text) >= LOG_BYTES:
            break
    return text.decode(errors="replace").splitlines()


def lives(lines: Sequence[str]) -> list[list[str]]:
    """The lines of each life, the oldest first. One that the launcher refused is one as well."""
    found: list[list[str]] = [[]]
    for line in lines:
        if line.startswith(LAUNCH):
            found.append([])
        found[-1].append(line)
    return found
