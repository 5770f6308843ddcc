"""Jobs: batches by name, each a folder with its declaration, its journal and its lock.

    folder = job.create(Path("results/batches"), "night")
    with folder.held("asks 1,000 rows"):            # one process at a time
        folder.declare(Job(...))
        with journal.opened(folder.journal, total) as log: ...

    for folder in job.folders(Path("results/batches")): ...
    job.cancel(folder)                              # whether a process works on it or not

A folder without a declaration is one whose input was not read to its end: nothing was sent, and it may be begun anew.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from nexus_tasks.batches import journal, sources
from nexus_tasks.batches.asking import APIS
from nexus_tasks.batches.entries import Session
from nexus_tasks.batches.index import MAX_ITEMS, Index
from nexus_tasks.batches.inputs import Input
from nexus_tasks.batches.items import KEY_BYTES
from nexus_tasks.batches.options import Options
from nexus_tasks.core.errors import BatchError, UsageError
from nexus_tasks.hostlib import files, locks
from nexus_tasks.hostlib.locks import Holder
from nexus_tasks.records import store

ROOT = store.ROOT / "batches"
SCHEMA = 1
NAME_BYTES = 200  # file systems take names of 255
CANCELLED = "cancelled"
CANCEL_SECONDS = 60.0


class Job(msgspec.Struct, frozen=True):
    """Declaration of a job: what is asked, of whom and how.

    Args:
        created_at: in UTC, ISO 8601.
        index: of the input, as it was when the job began or was last allowed to change.
        targets: as the command line had them.
        options: of its execution, as they were given last.
        model: the one to ask for, of servers that have several.
    """

    name: str
    created_at: str
    input: Input
    index: Index
    targets: list[str]
    options: Options
    model: str | None = None
    schema: int = SCHEMA


@dataclass(frozen=True)
class Folder:
    """The folder of a job: ``path`` is below the folder of all jobs and has the job's name."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def declaration(self) -> Path:
        return self.path / "job.json"

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def rows_index(self) -> Path:
        return self.path / "rows.index"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    def has_index(self, items: int) -> bool:
        """True where the index is there, and as long as that of so many items; a power cut may take its end."""
        return self.rows_index.exists() and self.rows_index.stat().st_size == items * KEY_BYTES

    def keys(self, items: int) -> bytes | None:
        """The keys of so many items by the index; None where it does not have them."""
        return self.rows_index.read_bytes() if self.has_index(items) else None

    def holder(self) -> Holder | None:
        """The process that works on the job; None where none does."""
        return locks.holder(str(self.lock))

    @contextlib.contextmanager
    def held(self, what: str, *, wait_s: float = 0.0) -> Iterator[None]:
        """Work on the job, alone. ``what`` explains this process to another that wants to.

        Raises:
            UsageError: another process works on it, or the lock can't be had.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locks.held(str(self.lock), what, wait=wait_s))
            except locks.LockHeld as error:
                raise UsageError(
                    f"{error.holder} works on the job {self.name}",
                    hint="wait for its end; the command cancel ends it, status shows how far it is",
                ) from error
            except locks.LockError as error:
                raise UsageError(str(error), hint="the folder of a job belongs to the user who began it") from error
            yield

    def load(self) -> Job:
        """The job's declaration.

        Raises:
            BatchError: it is damaged, or of another version.
        """
        try:
            job = msgspec.json.decode(self.declaration.read_bytes(), type=Job)
            _check_values(job)
        except (msgspec.MsgspecError, ValueError) as error:
            raise BatchError(
                f"{self.declaration} is not the declaration of a job: {error}",
                hint="restore it from a copy, or use the version of Llama Nexus that wrote it",
            ) from error
        if job.schema != SCHEMA:
            raise BatchError(
                f"{self.declaration} has schema {job.schema}; this version reads {SCHEMA}",
                hint="use the version of Llama Nexus that wrote it",
            )
        return job

    def declare(self, job: Job) -> None:
        """Write the declaration, whole or not at all. Raises OSError."""
        files.write_file(str(self.declaration), msgspec.json.format(msgspec.json.encode(job)) + b"\n")

    def discard(self) -> None:
        """Remove the folder of a job that was not declared, as far as there is nothing of others in it."""
        with contextlib.suppress(OSError):
            self.rows_index.unlink(missing_ok=True)
            self.lock.unlink(missing_ok=True)
            self.path.rmdir()


def _check_values(job: Job) -> None:
    """Refuse values that no declaration has, such as an edited one might: what goes by them would go wrong.

    Raises:
        ValueError: with the first, in one line.
    """
    source, asking, index = job.input.source, job.input.asking, job.index
    if source.format not in sources.FORMATS:
        raise ValueError(f"there is no format {source.format}")
    if "\0" in source.path or not Path(source.path).is_absolute():
        raise ValueError(f"{source.path!a} is no absolute path")
    if asking.api not in APIS or asking.samples < 1:
        raise ValueError(f"{asking.samples} samples by {asking.api} can't be asked for")
    datetime.fromisoformat(job.created_at)
    if not 0 <= index.rows <= index.items <= MAX_ITEMS or index.items != index.rows * asking.samples:
        raise ValueError(f"{index.items:,} items can't be {index.rows:,} rows of {asking.samples} samples")


def check_name(name: str) -> None:
    """Refuse a name that can't be a folder's, or that a terminal or a command line would take for something else.

    Raises:
        UsageError: with the reason.
    """
    hint = "letters, digits, spaces, dots, dashes and underscores will do; it begins with a letter, digit or underscore"
    if not name.isprintable() or "/" in name or name[:1] in ("", ".", "-", "~") or name != name.strip():
        raise UsageError(f"{name!a} can't be the name of a job", hint=hint)
    if len(os.fsencode(name)) > NAME_BYTES:
        raise UsageError(f"the name {name[:20]}... is too long for a job", hint=f"at most {NAME_BYTES} bytes")


def free_name(root: Path, source: Path, now: datetime) -> str:
    """A name that no job has, made of the input's and of the time in UTC: ``prompts-20261130T004200Z``."""
    name = _name_of(source, now)
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(each for each in names if not (root / each).exists())


def _name_of(source: Path, now: datetime) -> str:
    stem = re.sub(r"[^\w.-]+", "-", source.stem).strip("-.")
    return f"{os.fsencode(stem)[:100].decode(errors='ignore') or 'batch'}-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def create(root: Path, name: str) -> Folder:
    """The folder of a new job. One that another process left without a declaration is taken over.

    Raises:
        UsageError: as :func:`check_free`.
        OSError: the folder can't be made.
    """
    folder = check_free(root, name)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # below /proc, for one
        raise UsageError(f"{folder.path} can't be made: {error.strerror}", hint="name another folder") from error
    return folder


def check_free(root: Path, name: str) -> Folder:
    """The folder that a new job would get.

    Raises:
        UsageError: there is a job of that name, or it can't be one.
    """
    check_name(name)
    folder = Folder(root / name)
    if folder.declaration.exists():
        raise UsageError(
            f"there is a job {name} in {root}", hint="give this one another name; the command resume goes on with it"
        )
    if folder.path.exists() and not _is_unfinished(folder):
        raise UsageError(f"{folder.path} is there and no job", hint="give the job another name, or name --jobs")
    return folder


def _is_unfinished(folder: Folder) -> bool:
    """True for what a process leaves that ended before it declared its job."""
    ours = {folder.lock.name, folder.rows_index.name}
    return folder.path.is_dir() and all(
        entry.name in ours or entry.name.startswith(".") for entry in folder.path.iterdir()
    )


def find(root: Path, name: str) -> Folder:
    """The folder of a job that was begun.

    Raises:
        UsageError: there is none of that name.
    """
    check_name(name)
    folder = Folder(root / name)
    if not folder.declaration.exists():
        names = [one.name for one in folders(root)]
        shown = ", ".join(names[-5:]) if names else "none"
        raise UsageError(
            f"there is no job {name} in {root}", hint=f"the last jobs there: {shown}; --jobs names a folder"
        )
    return folder


def folders(root: Path) -> list[Folder]:
    """The folders of all jobs, oldest first. Raises OSError."""
    if not root.is_dir():
        return []
    there = [folder for path in root.iterdir() if (folder := Folder(path)).declaration.is_file()]
    return sorted(there, key=lambda folder: (folder.declaration.stat().st_mtime, folder.name))


class Cancelled(NamedTuple):
    """Outcome of a cancellation: a job that is complete stays so.

    Args:
        pid: the process that was ended; None where none worked on it.
    """

    pid: int | None
    is_cancelled: bool


def cancel(folder: Folder) -> Cancelled:
    """End the process that works on a job, if one does, and mark the job as cancelled unless it is complete.

    Raises:
        UsageError: the process is on another machine, or does not end.
    """
    job, holder = folder.load(), folder.holder()
    pid = holder.pid if holder else None
    if holder:
        _terminate(folder, holder)
    items = job.index.items
    with (
        folder.held("cancels it", wait_s=CANCEL_SECONDS),
        journal.opened(folder.journal, items, keys=folder.keys(items)) as log,
    ):
        is_open = log.state.done < log.state.total
        if is_open:
            log.write([Session(time.time(), ended=CANCELLED)])
    return Cancelled(pid, is_open)


def _terminate(folder: Folder, holder: Holder) -> None:
    """Ask the process that holds the lock to stop, that one and no other which got its number since."""
    if holder.pid is None:
        raise UsageError(f"another process works on {folder.name} and has not said who it is", hint="try again")
    try:
        descriptor = os.pidfd_open(holder.pid)
    except ProcessLookupError:
        descriptor = -1
    try:
        if descriptor < 0 or not _has_open(holder.pid, folder.lock):
            if folder.holder() is None:  # it ended meanwhile
                return
            raise UsageError(
                f"{holder} works on {folder.name}, and is no process of this user on this machine",
                hint="cancel it where it runs, and as who started it",
            )
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _has_open(pid: int, path: Path) -> bool:
    """True where a process has a file open."""
    wanted: Sequence[Path] = []
    with contextlib.suppress(OSError):  # it ended, or is another user's
        wanted = list(Path(f"/proc/{pid}/fd").iterdir())
    for opened in wanted:
        with contextlib.suppress(OSError):
            if opened.readlink() == path.resolve():
                return True
    return False
