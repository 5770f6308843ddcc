"""Files that a module writes whole or not at all, and reads where they are there."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from typing import Any


def write_file(path: str, text: str, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
    """Write a file so that it is there whole or not at all. OSError names it."""
    handle, draft = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:  # byte for byte, CRLF too
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(draft, mode)
        if owner:
            os.chown(draft, *owner)
        os.replace(draft, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, path) from error
        raise


def read_json(path: str) -> dict[str, Any] | None:
    """The object in a file; None where there is none."""
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.load(stream)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def to_json(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def content(path: str) -> str | None:
    """The text of a file; None where it can't be read."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except OSError:
        return None
