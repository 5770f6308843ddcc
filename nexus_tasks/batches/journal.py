"""Journal of a batch: entries that are appended, each in a line with its checksum, so that a kill loses none.

    with journal.opened(path, total) as log:        # reads what is there; log.state is the batch's state
        log.write([Begun([0, 1], "gpu1/main", time.time())])
        log.write([Answered(...), Answered(...)])   # one write for all of them: they are kept, or none is

    state = journal.read(path, total)               # beside a process that writes

A line is the CRC-32 of its JSON in eight hexadecimal digits, a space, and the JSON. What is written outlasts the
process at once, and a power failure a second later: a thread asks the disk to keep it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import msgspec

from nexus_tasks.batches.entries import Answered, Entry
from nexus_tasks.batches.state import ANSWERED, SET_ASIDE, State
from nexus_tasks.core import json_text
from nexus_tasks.core.errors import BatchError

SYNC_SECONDS = 1.0
BUFFER_BYTES = 1 << 20
_JSON_AT = 9
_HEX = frozenset(b"0123456789abcdef")
_decode: Callable[[bytes], Entry] = msgspec.json.Decoder(Entry).decode


def line_of(entry: Entry) -> bytes:
    """An entry as a line of the journal."""
    encoded = json_text.encoded(entry)
    return b"%08x %s\n" % (zlib.crc32(encoded), encoded)


def json_of(line: bytes) -> bytes | None:
    """The JSON of a line of the journal; None where the line is cut or its checksum is that of another text."""
    encoded = line[_JSON_AT:-1]
    if line[-1:] != b"\n" or line[8:9] != b" " or not _HEX.issuperset(line[:8]):
        return None
    return encoded if int(line[:8], 16) == zlib.crc32(encoded) else None


class Journal:
    """A journal that is open for writing, and the state that it amounts to. Use :func:`opened`."""

    def __init__(self, path: Path, total: int, say: Callable[[str], object], keys: bytes | None) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            for folder in (path.parent, path.parent.parent):
                _keep_names(folder)
            self.state, self._end = _replay(path, total, keys)
            cut = os.fstat(self._descriptor).st_size - self._end
            if cut:
                os.ftruncate(self._descriptor, self._end)
                say(f"{path}: its last line was cut off and is dropped ({cut:,} bytes); its rows are asked again")
        except BaseException:
            os.close(self._descriptor)
            raise
        self._results: Results | None = None  # for those who ask for an answer
        self._unsynced = threading.Event()
        self._closing = threading.Event()
        self._sync_error: OSError | None = None
        self._syncing = threading.Thread(target=self._sync_each_second, name="journal", daemon=True)
        self._syncing.start()

    def write(self, entries: Sequence[Entry]) -> None:
        """Append entries in one write, and take them into the state.

        Raises:
            BatchError: the disk is full or can't be written to. None of the entries is kept then, and what was written
                before is.
        """
        lines = [line_of(entry) for entry in entries]
        self._append(b"".join(lines))
        for line in lines:
            # What the state counts is what a later process will read.
            self.state.apply(line[_JSON_AT:-1], self._end)
            self._end += len(line)
        self._unsynced.set()

    def is_done(self, index: int) -> bool:
        """True where an item is answered or set aside."""
        return self.state.of[index] in (ANSWERED, SET_ASIDE)

    def answered(self, index: int) -> Answered | None:
        """The entry that answered an item; None where it is not answered.

        Raises:
            BatchError: it was damaged meanwhile.
        """
        if self.state.of[index] != ANSWERED:
            return None
        if self._results is None:
            self._results = Results(self.path)
        entry = self._results.at(self.state.offsets[index])
        return entry if isinstance(entry, Answered) else None

    def _append(self, text: bytes) -> None:
        left, place = memoryview(text), self._end
        try:
            if self._sync_error:
                raise self._sync_error
            while left:  # a full disk first shows as a write of fewer bytes
                count = os.pwrite(self._descriptor, left, place)
                left, place = left[count:], place + count
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
            raise BatchError(
                f"cannot write on to {self.path}: {error.strerror}",
                hint="what was answered before is kept; make room on the disk and resume the job",
            ) from error

    def _sync_each_second(self) -> None:
        while not self._closing.wait(SYNC_SECONDS):
            self._sync()

    def _sync(self) -> None:
        if self._unsynced.is_set():
            self._unsynced.clear()
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:  # some file systems tell only now that the disk is full
                self._sync_error = error

    def close(self) -> None:
        """Have the disk keep all that was written, and close the file.

        Raises:
            BatchError: the disk can't keep it.
        """
        self._closing.set()
        self._syncing.join()
        self._sync()
        os.close(self._descriptor)
        if self._results:
            self._results.close()
        if self._sync_error:
            raise BatchError(
                f"the disk may not have kept the last seconds of {self.path}: {self._sync_error.strerror}",
                hint="see to the disk, then resume the job: a row whose result is lost is asked again",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def opened(
    path: Path, total: int, say: Callable[[str], object] = lambda line: None, *, keys: bytes | None = None
) -> Journal:
    """Open the journal of a batch of ``total`` items for writing; it is made where there is none.

    Who opens it holds the job's lock. A last line that was cut off, as a power failure or a full disk leave it, is
    dropped.

    Args:
        say: is told of such a line, in one line.
        keys: of the items' requests, as :class:`State` takes them.

    Raises:
        BatchError: a line is damaged or was edited, by its number.
        OSError: the file can't be opened.
    """
    return Journal(path, total, say, keys)


def read(path: Path, total: int, keys: bytes | None = None) -> State:
    """The state of a batch, read beside a process that may be writing.

    Args:
        keys: of the items' requests, as :class:`State` takes them.

    Raises:
        BatchError: a line is damaged or was edited, by its number.
    """
    return _replay(path, total, keys)[0] if path.exists() else State(total, keys)


def entries(path: Path, buffer_bytes: int = BUFFER_BYTES) -> Iterator[tuple[int, Entry]]:
    """All entries of a journal in order, whole, one at a time, each with the place where it begins.

    Args:
        buffer_bytes: of the file that are held at a time, and at least a line.

    Raises:
        BatchError: a line is damaged or was edited, by its number.
    """
    for number, offset, encoded in _lines(path, buffer_bytes):
        try:
            yield offset, _decode(encoded)
        except msgspec.MsgspecError as error:
            raise _damaged(path, number, f"it is no entry of a journal: {error}") from error


class Results:
    """The entries that answered items or set them aside, read where they stand in a journal."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream = path.open("rb", buffering=BUFFER_BYTES)

    def at(self, offset: int) -> Entry:
        """The entry that begins there, one of :attr:`State.offsets`.

        Raises:
            BatchError: it is damaged, or no entry.
        """
        # Items end nearly in their order: a seek within what is buffered reads nothing.
        self._stream.seek(offset)
        encoded = json_of(self._stream.readline())
        if encoded is None:
            raise BatchError(f"{self._path} changed while it was read, at byte {offset}", hint="try again")
        try:
            return _decode(encoded)
        except msgspec.MsgspecError as error:
            raise BatchError(
                f"{self._path}: what begins at byte {offset} is no entry of a journal: {error}",
                hint="restore the file from a copy, or delete that line, whose row is asked again",
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _keep_names(folder: Path) -> None:
    """Have the names in a folder outlast a power failure, those of files that were made or renamed just now."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replay(path: Path, total: int, keys: bytes | None) -> tuple[State, int]:
    """The state that a journal amounts to, and where its last whole line ends."""
    state, end = State(total, keys), 0
    for number, offset, encoded in _lines(path):
        try:
            state.apply(encoded, offset)
        except msgspec.MsgspecError as error:
            raise _damaged(path, number, f"it is no entry of a journal: {error}") from error
        end = offset + _JSON_AT + len(encoded) + 1
    return state, end


def _lines(path: Path, buffer_bytes: int = BUFFER_BYTES) -> Iterator[tuple[int, int, bytes]]:
    """The whole lines of a journal: number, offset and JSON of each. A rest that was cut off is left out."""
    offset = 0
    with path.open("rb", buffering=buffer_bytes) as stream:
        for number, line in enumerate(stream, start=1):
            encoded = json_of(line)
            if encoded is None:
                if _is_cut(line) and not stream.read(1):
                    return
                raise _damaged(path, number, "its checksum is that of another text: it was edited or is damaged")
            yield number, offset, encoded
            offset += len(line)


def _is_cut(line: bytes) -> bool:
    """True for what is left of a line that was cut off; a power failure may leave NUL bytes in its place."""
    return not line.endswith(b"\n") or b"\0" in line


def _damaged(path: Path, number: int, why: str) -> BatchError:
    return BatchError(
        f"{path}, line {number}: {why}",
        hint="restore the file from a copy, or delete that line, whose rows alone are asked again: "
        f"sed -i {number}d {shlex.quote(str(path))}",
    )
