"""Folders of jobs at an address, and their copies on the node that works on them.

    with mirrored("s3://bucket/answers/jobs", "shard-00003") as root:
        ...                                 # the job is root / "shard-00003"; what is written goes to the address

A folder that the node sees by itself, as on a shared file system, is used where it is. Elsewhere the whole lines of the
journal are sent as they come, once a second, as objects that are never written again: a node that is lost costs that
second, as a power failure does.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import msgspec
from fsspec.implementations.local import LocalFileSystem

from nexus_tasks.batches.job import Folder
from nexus_tasks.core.errors import BatchError
from nexus_tasks.hostlib import files

PUSH_SECONDS = 1.0
_SEGMENT = "journal-{:015d}.jsonl"


@contextlib.contextmanager
def mirrored(address: str, name: str) -> Iterator[Path]:
    """The folder of jobs at an address as this node has it, with the job of that name in it, for a block.

    Raises:
        BatchError: the address can't be written to.
    """
    there, path = fsspec.core.url_to_fs(address)
    if isinstance(there, LocalFileSystem):
        root = Path(path)
        root.mkdir(parents=True, exist_ok=True)
        yield root
        return
    # The same on every node: a job's declaration names its input by the path.
    digest = hashlib.sha256(address.encode()).hexdigest()[:12]
    root = _private(Path(tempfile.gettempdir()) / f"llama-nexus-{os.getuid()}-{digest}")
    copy = Mirror(there, f"{path.rstrip('/')}/{name}", root / name)
    copy.fetch()
    over = threading.Event()

    def push_each_second() -> None:
        while not over.wait(PUSH_SECONDS):
            copy.try_push()

    pushing = threading.Thread(target=push_each_second, name="mirror", daemon=True)
    pushing.start()
    try:
        yield root
    finally:
        over.set()
        pushing.join()
        copy.push()


class Mirror:
    """A job's folder here and its objects at ``path``; a journal that is shorter here than there is fetched."""

    def __init__(self, there: Any, path: str, here: Path) -> None:
        self._files, self._path, self._folder = there, path, Folder(here)
        self._input = here.with_suffix(".parquet")
        self._sent = 0
        self._declared = b""

    def fetch(self) -> None:
        """Make the folder here what it is there, unless it is the same job with more of its journal.

        Raises:
            BatchError: the folder here can't be used.
        """
        here, sent = self._folder, sorted(self._files.glob(f"{self._path}/journal-*.jsonl"))
        if not self._files.exists(f"{self._path}/job.json"):
            files.remove_tree(str(here.path))
            return
        journal = b"".join(self._files.cat_file(name) for name in sent)
        self._sent = len(journal)
        self._declared = self._files.cat_file(f"{self._path}/job.json")
        if self._is_ahead(here):
            return
        files.remove_tree(str(here.path))
        here.path.mkdir()
        here.journal.write_bytes(journal)
        for path in (self._input, here.rows_index, here.declaration):
            self._files.get_file(f"{self._path}/{_object(path)}", str(path))

    def _is_ahead(self, here: Folder) -> bool:
        """True where the folder here is of the same job, with as much of its journal or more."""
        if not here.declaration.exists() or here.journal.stat().st_size < self._sent:
            return False
        return bool(here.load().created_at == msgspec.json.decode(self._declared)["created_at"])

    def try_push(self) -> None:
        """Send what is new; what can't be sent now is sent with the next."""
        with contextlib.suppress(OSError):
            self._push()

    def push(self) -> None:
        """Send what is new.

        Raises:
            BatchError: it can't be sent.
        """
        try:
            self._push()
        except OSError as error:
            raise BatchError(
                f"cannot write to {self._path}: {error}",
                hint="see to it; what is missing there is asked again",
            ) from error

    def _push(self) -> None:
        if not self._folder.declaration.exists():
            return
        declared = self._folder.declaration.read_bytes()
        if declared != self._declared:
            for path in (self._input, self._folder.rows_index, self._folder.declaration):
                self._files.put_file(str(path), f"{self._path}/{_object(path)}")
            self._declared = declared
        with self._folder.journal.open("rb") as stream:
            stream.seek(self._sent)
            lines, _, _ = stream.read().rpartition(b"\n")
        if lines:
            self._files.pipe_file(f"{self._path}/{_SEGMENT.format(self._sent)}", lines + b"\n")
            self._sent += len(lines) + 1


def _object(path: Path) -> str:
    return "input.parquet" if path.suffix == ".parquet" else path.name


def _private(path: Path) -> Path:
    """A folder that belongs to this user alone."""
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or not path.is_dir() or path.is_symlink():
        raise BatchError(f"{path} is another user's or open to others", hint="remove it")
    return path
