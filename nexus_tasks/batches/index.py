"""Index of an input: what is in it, found out before anything is asked.

    found = index.write(given, folder / "rows.index", progress)
    found.rows, found.items, found.misfits, found.sha256

``rows.index`` has the key of each item (KEY_BYTES), in their order; zeros where the row can't be asked. By it a resume
tells what changed, and --dedupe finds requests that are the same. Memory is a few bytes a row.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np

from nexus_tasks.batches import inputs, sources
from nexus_tasks.batches.inputs import Input
from nexus_tasks.batches.items import KEY_BYTES, Item
from nexus_tasks.core.errors import BatchError, UsageError
from nexus_tasks.hostlib.terminal_text import shortened

NO_KEY = bytes(KEY_BYTES)
"""The key of an item that can't be asked."""
MAX_ITEMS = 10**9
"""Items that a job can have: their state takes some bytes of memory for each."""
_PROGRESS_ROWS = 10_000

Progress = Callable[[int], None]
"""Is told how many rows have been read."""


class Index(msgspec.Struct, frozen=True):
    """Counts of an input, and what tells the file from another.

    ``misfits`` are the items that can't be asked, by the kind of their reason.
    """

    rows: int
    items: int
    misfits: dict[str, int]
    sha256: str


def write(given: Input, path: Path, progress: Progress = lambda rows: None) -> Index:
    """Read all of an input, and write the keys of its items to ``path``, which is made or replaced at its end.

    Raises:
        UsageError: the file can't be read, has no row that can be asked, two rows with one id, or changes meanwhile.
        BatchError: ``path`` can't be written.
    """
    inputs.check(given)
    state = _state(given.source.file)
    sha256 = _sha256(given.source.file)
    partial = path.with_name(f".{path.name}.partial")
    ids = array("q")
    misfits: dict[str, int] = {}
    items, first = 0, None
    unseen = given.columns.named()
    try:
        with partial.open("wb", buffering=1 << 20) as stream:
            for item in inputs.items(given):
                stream.write(item.request.key if item.request else NO_KEY)
                items += 1
                if items > MAX_ITEMS:
                    raise UsageError(
                        f"{given.source.path} has more than {MAX_ITEMS:,} requests", hint="make several files of it"
                    )
                if item.misfit:
                    first = first or item
                    misfits[item.misfit.kind] = misfits.get(item.misfit.kind, 0) + 1
                if unseen:
                    unseen -= item.row.fields.keys()
                if item.sample == 0:
                    ids.append(hash(item.row.id if _is_read(item) else (item.row.number,)))
                    if len(ids) % _PROGRESS_ROWS == 0:
                        progress(len(ids))
        _check_asked(given, items, first if sum(misfits.values()) == items else None)
        if unseen:
            raise UsageError(
                f"no row of {given.source.path} has {', '.join(sorted(unseen))}",
                hint="see to the options that name columns",
            )
        _check_ids(given, np.frombuffer(ids, dtype=np.int64))
        if _state(given.source.file) != state:
            raise UsageError(f"{given.source.path} changed while it was read", hint="start again when it is written")
        partial.replace(path)
    except OSError as error:
        raise BatchError(f"{path} can't be written: {error.strerror}", hint="make room, then begin again") from error
    finally:
        partial.unlink(missing_ok=True)
    return Index(len(ids), items, misfits, sha256)


def place(given: Input, line: int) -> str:
    """A row's place in words: its line, or its number in formats that have no lines."""
    return f"{'row' if given.source.format in ('json', 'parquet') else 'line'} {line}"


def _state(path: Path) -> tuple[int, int, int]:
    with sources.reading(path):
        state = path.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns


def _sha256(path: Path) -> str:
    with sources.reading(path), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_asked(given: Input, items: int, first: Item | None) -> None:
    if items == 0:
        raise UsageError(f"{given.source.path} has no rows", hint="put at least one in, or choose another file")
    if first is not None and first.misfit is not None:
        where = place(given, first.row.line)
        raise UsageError(
            f"{given.source.path}: no row can be asked; the first, {where}: {first.misfit.message}",
            hint="see docs/batches.md, Input, for what a row must have",
        )


def _check_ids(given: Input, hashes: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
    """Refuse two rows with one id. Where hashes are the same, the ids are read again."""
    ordered = np.sort(hashes)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(twice):
        return
    numbers = set((np.flatnonzero(np.isin(hashes, twice)) + 1).tolist())
    lines: dict[str, int] = {}
    for item_id, line in _ids(given, numbers):
        if item_id in lines:
            both = f"{place(given, lines[item_id])} and {place(given, line)}"
            raise UsageError(
                f"{given.source.path}, {both} have one id, {shortened(item_id, 60)}",
                hint="make ids unique, name their column with --id-column, or go by lines with --no-ids",
            )
        lines[item_id] = line


def _ids(given: Input, numbers: set[int]) -> Iterator[tuple[str, int]]:
    """Ids and lines of some rows, by their numbers."""
    samples = given.asking.samples
    for item in inputs.items(given, lambda index: index % samples == 0 and index // samples + 1 in numbers):
        if _is_read(item):
            yield item.row.id, item.row.line


def _is_read(item: Item) -> bool:
    """False for a row that is damaged: its line stands for its id, which may be that of another row."""
    return bool(item.row.fields) or item.misfit is None
