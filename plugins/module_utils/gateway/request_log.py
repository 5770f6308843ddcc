"""Log of a gateway's requests: what HAProxy appends to, and the files by day that its lines are moved to, each once.

log = RequestLog("/opt/llama-nexus/gateway/log")
for line in log.move():                  # what is new, which is then in days/2026-11-30.jsonl
    ...
for day, line in snapshot(folder, since=...):
    ...

HAProxy holds ``requests.jsonl`` open as long as it runs, so that file is never renamed or cut. What was moved is given
back to the file system as a hole; the file's size goes on to grow, the space that it takes does not.

A line is moved in three steps: appended to its day's file, the place up to which was read noted in ``moved.json``, and
only then handed on. A mover that ended between the first two leaves lines in the day's file that are beyond the size
noted for it; the next one cuts them off, and moves them.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone

from .errors import GatewayError

LIVE, MOVED, DAYS = "requests.jsonl", "moved.json", "days"
OF_HAPROXY = re.compile(rb"(?:Proxy|Stopping|Pausing|Enabling) ")  # what it says of itself, when it is loaded anew
DAY_FILE = re.compile(r"(\d{4}-\d{2}-\d{2})\.jsonl")
READ_BYTES = 1 << 20
HOLE_BYTES = 16 << 20  # as much is moved before its space is given back
KEPT_BYTES = 4 << 20  # behind what was moved: a reader may be that late
KEEP_SIZE, PUNCH_HOLE = 0x01, 0x02  # of fallocate(2)
SNAPSHOT_TRIES = 5


@dataclass
class Place:
    """Progress of the mover: it is at ``offset`` of the file ``inode``; ``sizes`` are of the days' files then."""

    inode: int = 0
    offset: int = 0
    freed: int = 0
    sizes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: str) -> Place:
        try:
            with open(os.path.join(folder, MOVED), encoding="utf-8") as stream:
                known = json.load(stream)
            return cls(known["inode"], known["offset"], known["freed"], known["sizes"])
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def write(self, folder: str) -> None:
        path = os.path.join(folder, MOVED)
        with open(f"{path}.new", "w", encoding="utf-8") as stream:
            json.dump(vars(self), stream)
        os.replace(f"{path}.new", path)


class RequestLog:
    """Mover of one log's lines. There is one at a time."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.days = os.path.join(folder, DAYS)
        os.makedirs(self.days, mode=0o700, exist_ok=True)
        self.place = Place.read(folder)
        for day, size in self.place.sizes.items():
            path = self.day_path(day)
            if os.path.exists(path) and os.path.getsize(path) > size:  # written, and not noted: it is moved again
                os.truncate(path, size)

    def day_path(self, day: str) -> str:
        return os.path.join(self.days, f"{day}.jsonl")

    def move(self) -> list[bytes]:
        """Move what is new, of a lot of it only a part; the lines, without what is still being written."""
        try:
            live = open(os.path.join(self.folder, LIVE), "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            return []
        with live:
            status = os.fstat(live.fileno())
            if status.st_ino != self.place.inode or status.st_size < self.place.offset:  # another file, or cut by hand
                self.place.inode, self.place.offset, self.place.freed = status.st_ino, 0, 0
            live.seek(self.place.offset)
            data = live.read(READ_BYTES)
            whole = data.rfind(b"\n") + 1
            if not whole and len(data) == READ_BYTES:
                whole = len(data)  # no line is as long: what this is, is told of as damaged
            lines = _rows(data[:whole])
            if whole:
                self._append(lines)
                self.place.offset += whole
                self.place.write(self.folder)
                self._free()
        return lines

    def _append(self, lines: list[bytes]) -> None:
        by_day: dict[str, list[bytes]] = {}
        for line in lines:
            by_day.setdefault(day_of(line), []).append(line)
        fresh = [day for day in by_day if day not in self.place.sizes]
        if fresh:  # their sizes have to be known before they grow
            for day in fresh:
                path = self.day_path(day)
                self.place.sizes[day] = os.path.getsize(path) if os.path.exists(path) else 0
            self.place.write(self.folder)
        for day, of_day in by_day.items():
            with open(self.day_path(day), "ab", opener=_for_owner) as stream:
                stream.write(b"".join(line + b"\n" for line in of_day))
                self.place.sizes[day] = stream.tell()

    def _free(self) -> None:
        """Give the space of what was moved back. Where the file system can't, it is kept until somebody removes it."""
        end = self.place.offset - KEPT_BYTES
        if end - self.place.freed < HOLE_BYTES:
            return
        descriptor = os.open(os.path.join(self.folder, LIVE), os.O_WRONLY)
        try:
            if _fallocate(descriptor, KEEP_SIZE | PUNCH_HOLE, 0, end) == 0:
                self.place.freed = end
        finally:
            os.close(descriptor)

    def forget(self, before: str) -> list[str]:
        """Remove the files of days before this one, an ISO date; the days that were removed."""
        gone = [day for day in days_in(self.days) if day < before]
        for day in gone:
            os.unlink(self.day_path(day))
            self.place.sizes.pop(day, None)
        if gone:
            self.place.write(self.folder)
        return gone

    def lines_of(self, day: str) -> Iterator[bytes]:
        """The lines of a day that were moved."""
        try:
            with open(self.day_path(day), "rb") as stream:
                for line in stream:
                    yield line.rstrip(b"\n")
        except FileNotFoundError:
            return


def snapshot(folder: str, since: str) -> Iterator[bytes]:
    """The lines of all days from ``since`` (an ISO date) on, moved or not, each once; while a mover may be at work.

    Raises:
        GatewayError: the log can't be read, or is moved faster than read.
    """
    for _ in range(SNAPSHOT_TRIES):
        place = Place.read(folder)
        rest = _unmoved(folder, place)
        if rest is None:  # the mover has been there since
            continue
        days = os.path.join(folder, DAYS)
        for day in days_in(days):
            if day >= since:
                with open(os.path.join(days, f"{day}.jsonl"), "rb") as stream:
                    size = place.sizes.get(day)
                    left = size if size is not None else os.fstat(stream.fileno()).st_size
                    for line in stream:
                        left -= len(line)
                        if left < 0:
                            break
                        yield line.rstrip(b"\n")
        yield from (line for line in rest if day_of(line) >= since)
        return
    raise GatewayError(f"the log in {folder} is moved faster than it can be read: try again")


def _unmoved(folder: str, place: Place) -> list[bytes] | None:
    """The whole lines that were not moved; None where some of them are gone."""
    try:
        with open(os.path.join(folder, LIVE), "rb") as live:
            if os.fstat(live.fileno()).st_ino == place.inode and os.fstat(live.fileno()).st_size >= place.offset:
                live.seek(place.offset)
            data = live.read()
    except FileNotFoundError:
        return []
    if data.startswith(b"\0"):
        return None
    return _rows(data[: data.rfind(b"\n") + 1])


def _rows(data: bytes) -> list[bytes]:
    """The lines of requests. Each start of HAProxy begins with an empty one, and so ends one that broke off."""
    return [line for line in data.splitlines() if line and not OF_HAPROXY.match(line)]


def days_in(folder: str) -> list[str]:
    """The days whose lines are in a folder, in order."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(match[1] for match in map(DAY_FILE.fullmatch, names) if match)


def day_of(line: bytes) -> str:
    """The day (UTC, ISO) of a line; one that can't be read belongs to the day on which it is found."""
    try:
        return datetime.fromtimestamp(json.loads(line)["time"], timezone.utc).date().isoformat()
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return datetime.now(timezone.utc).date().isoformat()


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _fallocate(descriptor: int, mode: int, offset: int, length: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))
