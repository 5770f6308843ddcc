"""Files of this host, answered as by a server with ranges: a mirror may be a folder.

Python 3.9's standard library only.

with opened("file:///mnt/models/some/repo/m.gguf", {"Range": "bytes=10-"}) as answer:
    answer.status, answer.headers["Content-Length"], answer.read(1 << 20)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from email.message import Message
from types import TracebackType
from urllib.parse import unquote, urlsplit

SCHEME = "file:///"


class LocalAnswer:
    """The answer for a file, or its end from a byte on; as much of HTTPResponse as a download needs."""

    def __init__(self, path: str, headers: Mapping[str, str]) -> None:
        self._stream = open(path, "rb")  # noqa: SIM115 - closed at the end of the block that this is opened for
        stat = os.fstat(self._stream.fileno())
        etag = f'"{stat.st_mtime_ns}-{stat.st_size}"'
        start, self.status, self.headers = 0, 200, Message()
        if "Range" in headers and headers.get("If-Range", etag) == etag:
            start, self.status = int(headers["Range"].partition("=")[2].partition("-")[0]), 206
            self.headers["Content-Range"] = f"bytes {start}-{stat.st_size - 1}/{stat.st_size}"
        self.headers["ETag"] = etag
        self.headers["Content-Length"] = str(max(0, stat.st_size - start))
        self._stream.seek(start)

    def read(self, count: int = -1) -> bytes:
        """So many bytes, fewer at the end."""
        return self._stream.read(count)

    def __enter__(self) -> LocalAnswer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stream.close()


def is_local(address: str) -> bool:
    """True for the address of a file of this host."""
    return address.startswith(SCHEME)


def opened(address: str, headers: Mapping[str, str]) -> LocalAnswer:
    """The answer for the file at an address, for as long as it is in a with statement. Raises OSError."""
    return LocalAnswer(unquote(urlsplit(address).path), headers)
