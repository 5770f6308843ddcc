"""Files and folders put in place atomically, whole or not at all, and checksums (sha256). Python 3.9's standard library
only.

write_file("/etc/modules-load.d/nvidia.conf", "nvidia\\n")
write_file(key_file, keys, mode=0o600, owner=(uid, gid))
state = read_json("/opt/llama-nexus/models/state.json") or {}
sha256_of(path) == wanted
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of linux/fcntl.h and linux/fs.h
BLOCK_BYTES = 1 << 20  # some libraries of CUDA are larger than a small host's memory


def write_file(
    path: str,
    content: str | bytes,
    mode: int = 0o644,
    owner: tuple[int, int] | None = None,
    *,
    parents: bool = False,
    durable: bool = True,
) -> None:
    """Write a file by a rename; who reads it meanwhile has the former one, and a failure leaves that as it was.

    Args:
        content: text is written as UTF-8 and byte for byte, CRLF too.
        mode: the file's, whatever the umask is.
        owner: user id and group id; None leaves them to be those of this process.
        parents: whether to make the folders above it where they are missing; else they have to be there.
        durable: whether it is to outlast a power failure from now on, which takes a disk some milliseconds.

    Raises OSError, which names ``path``.
    """
    if parents:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    draft = ""
    try:
        handle, draft = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        os.chmod(draft, mode)
        if owner:
            os.chown(draft, *owner)
        os.replace(draft, path)
    except BaseException as error:
        if draft:
            with contextlib.suppress(OSError):
                os.unlink(draft)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, path) from error
        raise


def put_in_place(draft: str, path: str) -> None:
    """Give a complete folder its name at one stroke; what had the name is removed afterwards.

    Whatever ends this process there is a whole folder of that name, the former one or this, and perhaps another one
    under the name of ``draft``, which lies beside it. Only where the file system can't exchange two names (NFS) there
    is a moment without one. Raises OSError.
    """
    try:
        os.rename(draft, path)
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
    gone = draft
    if not _exchanged(draft, path):
        gone = f"{draft}.removed"
        remove_tree(gone)
        os.rename(path, gone)
        os.rename(draft, path)
    remove_tree(gone)


def _exchanged(one: str, other: str) -> bool:
    """Exchange two names; False where this system can't."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # a C library that has no such call
        return False
    if rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EPERM):
        return False
    raise OSError(number, os.strerror(number), other)


def remove_tree(path: str) -> None:
    """Remove a folder with what is in it, or whatever has the name, as far as that can be done."""
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.unlink(path)


def write_line(path: str, line: str) -> None:
    """Put one line into a file for whoever follows a job, with the folders above. Raises OSError as write_file does."""
    write_file(path, line + "\n", parents=True, durable=False)


def read_text(path: str) -> str | None:
    """The text of a file, undecodable bytes replaced; None where it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return None


def read_json(path: str) -> dict[str, Any] | None:
    """The object in a file; None where there is no such file, or it holds something else."""
    try:
        with open(path, encoding="utf-8") as stream:
            value = json.load(stream)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def reason_of(error: OSError) -> str:
    """An error of a file for people, in one line: its path, where one is known, and the system's reason."""
    if error.filename is None or error.strerror is None:
        return " ".join(str(error).split()) or type(error).__name__
    return f"{error.filename}: {error.strerror}"


def sha256_of(path: str, done: Callable[[int], None] = lambda count: None) -> str:
    """A file's checksum, a sha256 in hexadecimal, read block by block.

    Args:
        done: gets the number of bytes read so far, after each block.

    Raises OSError.
    """
    digest, count = hashlib.sha256(), 0
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(BLOCK_BYTES), b""):
            digest.update(block)
            count += len(block)
            done(count)
    return digest.hexdigest()
