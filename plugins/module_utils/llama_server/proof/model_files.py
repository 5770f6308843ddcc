"""Checksums (sha256) of model files, remembered from one proof to the next."""

from __future__ import annotations

import contextlib
import os

from ...hostlib.files import read_json, sha256_of, write_file
from ...hostlib.stored import to_json
from ..errors import HostError


def file_sha256(root: str, path: str) -> str:
    """The sha256 of a file, read again only when the file changed since the last time.

    Raises HostError where it can't be read.
    """
    try:
        stat = os.stat(path)
        signature = [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        remembered = os.path.join(root, ".sha256.json")
        known = read_json(remembered) or {}
        if known.get(path, [None])[0] != signature:
            digest = sha256_of(path)
            known = {name: entry for name, entry in known.items() if os.path.exists(name)}
            known[path] = [signature, digest]
            with contextlib.suppress(OSError):  # a full disk costs time, and no more
                write_file(remembered, to_json(known))
        return str(known[path][1])
    except OSError as error:
        raise HostError(f"model {path} can't be read ({error.strerror}): deploy again") from error
