"""Resumable download of one file over HTTP. Python 3.9's standard library only.

Download(origin, "m.gguf.partial", progress).run()      # its sha256 is the origin's, or ModelError
size_of(origin)                                          # bytes, asked of the server; ModelError where it has none
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import socket
import ssl
import time
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ..hostlib import masking
from ..hostlib.files import read_json, write_file
from ..hostlib.gguf import MAGIC, GgufError, TruncatedError, read_header
from ..hostlib.http_client import open_address
from .errors import MIB, ModelError, check_space, no_space
from .local_file import LocalAnswer, is_local, opened
from .progress import PartProgress

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60
MAX_TEXT_BYTES = 1 << 20
# How a transfer breaks off. socket.timeout became TimeoutError only in Python 3.10.
BREAKS = (http.client.HTTPException, ConnectionError, TimeoutError, socket.timeout, ssl.SSLError)
ATTEMPTS = 4  # in a row without a byte gained
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Origin:
    """The place that a file is downloaded from, and what it must be."""

    name: str
    """The name that people call it by."""
    address: str
    authorization: str | None
    """What the address's own origin gets, and nobody that it redirects to."""
    sha256: str
    size_bytes: int | None = None
    """Its size, where that is known before it is asked for."""


class BrokenOffError(Exception):
    """A download broke off; it can be continued."""


class Download:
    """One file over HTTP into ``partial``, continued where an earlier attempt ended.

    Args:
        partial: the file to fill; ``<partial>.json`` remembers what it is a part of.
    """

    def __init__(self, origin: Origin, partial: str, progress: PartProgress) -> None:
        self._origin, self._partial, self._progress = origin, partial, progress
        self._folder = os.path.dirname(partial)
        self._digest = hashlib.sha256()
        self._done = 0
        self._total: int | None = None
        self._validator: str | None = None

    def run(self) -> None:
        """Have all of it, verified by its sha256. Raises ModelError, StoppedError, and OSError for the disk."""
        self._take_up()
        if self._digest.hexdigest() != self._origin.sha256:
            self._download()
        if self._digest.hexdigest() != self._origin.sha256:
            drop(self._partial)
            raise wrong_sha256(self._origin.name, self._digest.hexdigest(), self._origin.sha256)

    def _download(self) -> None:
        failures = 0
        while True:
            before = self._done
            try:
                self._attempt()
                return
            except BrokenOffError as error:
                failures = 1 if self._done > before else failures + 1
                if failures >= ATTEMPTS:
                    if self._done == 0:
                        raise ModelError(f"{error}; check the address, or use a path source") from error
                    raise ModelError(
                        f"the download broke off at {self._done / MIB:.0f} MiB ({error}); "
                        "run it again: it goes on from there"
                    ) from error
                self._progress.say(f"broke off at {self._done / MIB:.0f} MiB ({error}), trying again")
                time.sleep(2 ** (failures - 1))

    def _take_up(self) -> None:
        """Continue an earlier run's part if it is one of the same content and the server can be asked so."""
        if not os.path.exists(self._partial):
            self._start_over()
            return
        with open(self._partial, "rb") as stream:
            for chunk in iter(lambda: stream.read(CHUNK_BYTES), b""):
                self._digest.update(chunk)
                self._done += len(chunk)
        known = read_json(self._partial + ".json") or {}
        self._validator = known.get("validator")
        is_whole = self._digest.hexdigest() == self._origin.sha256
        if not is_whole and not (known.get("sha256") == self._origin.sha256 and self._validator):
            self._start_over()

    def _start_over(self) -> None:
        self._digest, self._done, self._validator = hashlib.sha256(), 0, None
        drop(self._partial)

    def _attempt(self) -> None:
        if self._done and not self._validator:
            self._start_over()  # nothing tells whether the server's file is still the same
        headers = {}
        if self._done and self._validator:
            headers = {"Range": f"bytes={self._done}-", "If-Range": self._validator}
        try:
            with _asked(self._origin, headers) as response:
                self._take_answer(response)
        except urllib.error.HTTPError as error:
            if error.headers.get("Content-Range") == f"bytes */{self._done}":
                return  # an earlier run had all of it
            self._start_over()
            raise BrokenOffError("the part did not fit the server's file") from error

    def _take_answer(self, response: http.client.HTTPResponse | LocalAnswer) -> None:
        length = response.headers.get("Content-Length")
        if self._done and not (
            response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {self._done}-")
        ):
            self._start_over()
        self._total = self._done + int(length) if length else None
        # A weak ETag says "equivalent", not "the same bytes".
        etag = response.headers.get("ETag", "")
        self._validator = etag if etag.startswith('"') else response.headers.get("Last-Modified")
        if self._total:
            check_space(self._folder, self._total - self._done)
        try:
            known = {"sha256": self._origin.sha256, "validator": self._validator}
            write_file(self._partial + ".json", json.dumps(known))
            self._copy(response)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise no_space(self._folder, self._total and self._total - self._done) from error
            raise
        if self._total and self._done < self._total:
            raise BrokenOffError(f"{self._done} of {self._total} bytes came")
        if self._total is None:
            self._look_for_the_end()

    def _look_for_the_end(self) -> None:
        """Raise BrokenOffError where a file, of which its server tells no length, ends before its header says."""
        try:
            read_header(self._partial)
        except TruncatedError as error:
            raise BrokenOffError(f"{self._done} bytes came, and the file's header tells of more") from error
        except GgufError:  # its sha256 tells
            return

    def _copy(self, response: http.client.HTTPResponse | LocalAnswer) -> None:
        self._progress.start(self._done)
        with open(self._partial, "ab", buffering=0) as stream:
            for chunk in iter(lambda: response.read(CHUNK_BYTES), b""):
                if self._done == 0 and not chunk.startswith(MAGIC):
                    raise ModelError(f"what came is not a GGUF file: it begins with {chunk[:16]!r}; check the address")
                _write_all(stream, chunk)
                self._digest.update(chunk)
                self._done += len(chunk)
                self._progress.show(self._done, self._total)
            os.fsync(
                stream.fileno()
            )  # it is renamed next, and a name must not outlive a power failure without its bytes


def size_of(origin: Origin) -> int | None:
    """The size of a file in bytes as its server tells it; None where it doesn't, or can't be reached now.

    Raises ModelError where the server has no such file, or not for us.
    """
    try:
        with _asked(origin, {"Range": "bytes=0-0"}) as response:
            if response.status == 206:
                total = response.headers.get("Content-Range", "").rpartition("/")[2]
            else:
                total = response.headers.get("Content-Length", "")
            return int(total) if total.isdigit() else None
    except (BrokenOffError, urllib.error.HTTPError):
        return None


def text_of(origin: Origin) -> str:
    """A small text of a server. Raises ModelError."""
    try:
        with _asked(origin, {}) as response:
            return response.read(MAX_TEXT_BYTES).decode(errors="replace")
    except (BrokenOffError, urllib.error.HTTPError) as error:
        raise ModelError(f"{error}; check the address") from error


def drop(partial: str) -> None:
    """Remove what there is of a download, and what is remembered of it."""
    for path in (partial, partial + ".json"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def wrong_sha256(name: str, digest: str, wanted: str) -> ModelError:
    """The error of a file that is not what it should be."""
    return ModelError(f"wrong sha256: {name} has {digest}, {wanted} is wanted; correct sha256, or the source")


@contextlib.contextmanager
def _asked(origin: Origin, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse | LocalAnswer]:
    """The answer for a file. Raises ModelError, BrokenOffError for what may pass, and HTTPError for a wrong range."""
    where = masking.addresses(origin.address)
    if is_local(origin.address):
        try:
            opening = opened(origin.address, headers)
        except OSError as error:
            raise ModelError(f"{where} can't be read: {error.strerror}; check the address") from error
        with opening as local:
            yield local
        return
    try:
        with open_address(
            origin.address, {"Accept-Encoding": "identity", **headers},
            authorization=origin.authorization, timeout=TIMEOUT_SECONDS, max_bytes=None,
        ) as response:  # fmt: skip
            yield response
    except urllib.error.HTTPError as error:
        if error.code == 416:
            raise
        if error.code in TRANSIENT_STATUS:
            raise BrokenOffError(f"HTTP {error.code} from {where}") from error
        raise ModelError(
            f"{where} answers {error.code} {error.reason}: check the address and who may read it"
        ) from error
    except urllib.error.URLError as error:
        raise BrokenOffError(f"{where} can't be reached: {error.reason}") from error
    except BREAKS as error:
        raise BrokenOffError(str(error) or type(error).__name__) from error
    except ValueError as error:
        raise ModelError(f"{where}: {error}") from error


def _write_all(stream: BinaryIO, chunk: bytes) -> None:
    """Write a chunk to an unbuffered file, which may take less than it is given."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[stream.write(rest) :]
