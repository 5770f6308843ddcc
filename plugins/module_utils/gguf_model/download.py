"""Resumable download of one file over HTTP. Python 3.9's standard library only."""

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
from collections.abc import Callable
from typing import BinaryIO

from ..hostlib import masking
from ..hostlib.files import read_json, write_file
from ..hostlib.gguf import MAGIC
from ..hostlib.http_client import open_address
from .errors import MIB, ModelError, check_space, no_space
from .progress import Progress

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60
# How a transfer breaks off. socket.timeout became TimeoutError only in Python 3.10.
BREAKS = (http.client.HTTPException, ConnectionError, TimeoutError, socket.timeout, ssl.SSLError)
ATTEMPTS = 4  # in a row without a byte gained
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}

# Gives the address, and the Authorization for its origin or None, anew for every attempt: signed addresses expire.
Resolve = Callable[[], "tuple[str, str | None]"]


class BrokenOffError(Exception):
    """A download broke off; it can be continued."""


class Download:
    """One file over HTTP into ``partial``, continued where an earlier attempt ended.

    Args:
        partial: the file to fill; ``<partial>.json`` remembers what it is a part of.
        identity: names the content, whatever address it is fetched from.
    """

    def __init__(self, partial: str, identity: str, resolve: Resolve, progress: Progress) -> None:
        self._partial, self._identity, self._resolve, self._progress = partial, identity, resolve, progress
        self._folder = os.path.dirname(partial)
        self._digest = hashlib.sha256()
        self._done = 0
        self._total: int | None = None
        self._validator: str | None = None

    def run(self) -> str:
        """Download all of it and return its sha256. Raises ModelError, and OSError for the disk."""
        self._take_up()
        failures = 0
        while True:
            before = self._done
            try:
                self._attempt()
                return self._digest.hexdigest()
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
        known = read_json(self._partial + ".json") or {}
        if known.get("identity") == self._identity and known.get("validator") and os.path.exists(self._partial):
            self._validator = known["validator"]
            with open(self._partial, "rb") as stream:
                for chunk in iter(lambda: stream.read(CHUNK_BYTES), b""):
                    self._digest.update(chunk)
                    self._done += len(chunk)
        else:
            self._start_over()

    def _start_over(self) -> None:
        self._digest, self._done, self._validator = hashlib.sha256(), 0, None
        drop(self._partial)

    def _attempt(self) -> None:
        if self._done and not self._validator:
            self._start_over()  # nothing tells whether the server's file is still the same
        address, authorization = self._resolve()
        headers = {"Accept-Encoding": "identity"}
        if self._done and self._validator:
            headers.update({"Range": f"bytes={self._done}-", "If-Range": self._validator})
        where = masking.addresses(address)
        try:
            with open_address(
                address, headers, authorization=authorization, timeout=TIMEOUT_SECONDS, max_bytes=None
            ) as response:
                self._take_answer(response)
        except urllib.error.HTTPError as error:
            if error.code == 416:
                if error.headers.get("Content-Range") == f"bytes */{self._done}":
                    return  # an earlier run had all of it
                self._start_over()
                raise BrokenOffError("the part did not fit the server's file") from error
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

    def _take_answer(self, response: http.client.HTTPResponse) -> None:
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
            write_file(self._partial + ".json", json.dumps({"identity": self._identity, "validator": self._validator}))
            self._copy(response)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise no_space(self._folder, self._total and self._total - self._done) from error
            raise
        if self._total and self._done < self._total:
            raise BrokenOffError(f"{self._done} of {self._total} bytes came")

    def _copy(self, response: http.client.HTTPResponse) -> None:
        self._progress.start(self._done)
        with open(self._partial, "ab", buffering=0) as stream:
            for chunk in iter(lambda: response.read(CHUNK_BYTES), b""):
                if self._done == 0 and not chunk.startswith(MAGIC):
                    raise ModelError(f"what came is not a GGUF file: it begins with {chunk[:16]!r}; check the address")
                _write_all(stream, chunk)
                self._digest.update(chunk)
                self._done += len(chunk)
                self._progress.show("downloaded", self._done, self._total)


def drop(partial: str) -> None:
    """Remove what there is of a download, and what is remembered of it."""
    for path in (partial, partial + ".json"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _write_all(stream: BinaryIO, chunk: bytes) -> None:
    """Write a chunk to an unbuffered file, which may take less than it is given."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[stream.write(rest) :]
