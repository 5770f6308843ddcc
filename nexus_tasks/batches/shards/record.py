"""Record of a batch in shards: the journals of all of them read as one, of which the record is that of any batch.

    path = record.write(batch, plan, Path("results"))       # None where no shard was begun

Entries of all journals are put in the order of their times, and their items counted through. The batch is at work while
one of its shards is. What GPUs took is not told: shards that run at a time measured the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import os
import resource
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import fsspec
import msgspec
from fsspec.implementations.local import LocalFileSystem

from nexus_tasks.batches import inputs, journal
from nexus_tasks.batches import record as job_record
from nexus_tasks.batches.entries import Answered, Begun, Entry, Failed, Reopened, Session, SetAside
from nexus_tasks.batches.index import Index
from nexus_tasks.batches.inputs import Input
from nexus_tasks.batches.job import Folder, Job
from nexus_tasks.batches.options import COMPLETE
from nexus_tasks.batches.record import Origin
from nexus_tasks.batches.shards.mirror import Mirror
from nexus_tasks.batches.shards.plan import Plan, Shard
from nexus_tasks.batches.shards.work import Batch
from nexus_tasks.batches.sources import Source
from nexus_tasks.batches.state import State
from nexus_tasks.core import json_text
from nexus_tasks.core.errors import BatchError, NexusError
from nexus_tasks.core.text import plural
from nexus_tasks.servers import route

BUFFERED_BYTES = 64 << 20
"""So much of all journals is held at a time."""


class Part(NamedTuple):
    """A shard that was begun: its job, and the number of items in the shards before it."""

    shard: Shard
    folder: Folder
    before: int


def write(batch: Batch, plan: Plan, root: Path) -> Path | None:
    """Write the record of a batch so far, and return its path; None where no shard was begun.

    Raises:
        RecordError: it can't be written.
        BatchError: a journal is damaged or can't be read.
    """
    samples = batch.asking.samples
    try:
        with _folders(batch.jobs, plan) as folders:
            begun = [Part(shard, folder, shard.before * samples) for shard, folder in folders.items()]
            if not begun:
                return None
            state = State(plan.rows * samples)
            for offset, entry in enumerate(_as_one(begun, len(plan.shards))):
                state.apply(json_text.encoded(entry), offset)
            return job_record.write(
                _job(batch, plan, begun), batch.jobs, state, enumerate(_as_one(begun, len(plan.shards))),
                origins=lambda wanted: _origins(begun, wanted, samples),
                secrets=list(filter(None, [os.environ.get(route.KEY_VARIABLE)])), root=root,
            )  # fmt: skip
    except OSError as error:
        raise BatchError(f"cannot read the jobs in {batch.jobs}: {error}", hint="see to it") from error


@contextlib.contextmanager
def _folders(jobs: str, plan: Plan) -> Iterator[dict[Shard, Folder]]:
    """The folders of the shards that were begun, where they are, or as copies for the block."""
    files, path = fsspec.core.url_to_fs(jobs)
    with contextlib.ExitStack() as stack:
        if isinstance(files, LocalFileSystem):
            here = Path(path)
        else:
            here = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llama-nexus-")))
            for shard in plan.shards:
                Mirror(files, f"{path.rstrip('/')}/{shard.name}", here / shard.name).fetch()
        found = {shard: Folder(here / shard.name) for shard in plan.shards}
        yield {shard: folder for shard, folder in found.items() if folder.declaration.exists()}


def _job(batch: Batch, plan: Plan, begun: Sequence[Part]) -> Job:
    """The batch as a job of its own, which began with the first of its shards."""
    digest = hashlib.sha256(msgspec.json.encode(plan.sizes)).hexdigest()  # of names and sizes: the files are elsewhere
    return Job(
        name=Path(batch.out.rstrip("/")).name, created_at=min(one.folder.load().created_at for one in begun),
        input=Input(Source(batch.address.rstrip("/"), "parquet"), batch.asking),
        index=Index(plan.rows, plan.rows * batch.asking.samples, {}, digest),
        targets=batch.targets, options=batch.options, model=batch.model,
    )  # fmt: skip


def _origins(begun: Sequence[Part], wanted: Collection[int], samples: int) -> Mapping[int, Origin]:
    """Places of some items in the input; none of a shard whose input is gone."""
    found: dict[int, Origin] = {}
    for shard, folder, before in begun:
        own = {item - before for item in wanted if 0 <= item - before < shard.rows * samples}
        if not own:
            continue
        with contextlib.suppress(NexusError, OSError):
            source = Source(str(folder.path.with_suffix(".parquet")), "parquet")
            given = msgspec.structs.replace(folder.load().input, source=source)
            for item, origin in job_record.origins_in(inputs.items(given, own.__contains__), own).items():
                found[before + item] = Origin(shard.before + origin.line, origin.id, origin.prompt)
    return found


def _as_one(begun: Sequence[Part], shards: int) -> Iterator[Entry]:
    """The entries of all journals in the order of their times, as those of one job of ``shards`` parts."""
    _allow_files(len(begun))
    buffer_bytes = max(8192, min(journal.BUFFER_BYTES, BUFFERED_BYTES // len(begun)))
    streams = [_timed(place, one, buffer_bytes) for place, one in enumerate(begun)]
    working: set[int] = set()
    complete: set[int] = set()
    at = 0.0
    for at, place, entry in heapq.merge(*streams, key=lambda timed: timed[:2]):
        if not isinstance(entry, Session):
            yield entry
        elif entry.ended is None:
            if not working:
                yield Session(at)
            working.add(place)
            complete.discard(place)
        else:
            if entry.ended == COMPLETE:
                complete.add(place)
            if working == {place}:
                yield Session(at, _ended(shards, len(complete)))
            working.discard(place)
    if working:  # of those a process was killed, or works on
        yield Session(at, _ended(shards, len(complete)))


def _ended(shards: int, complete: int) -> str:
    left = shards - complete
    return COMPLETE if not left else f"{left} of {plural(shards, 'shard')} did not come to an end"


def _timed(place: int, one: Part, buffer_bytes: int) -> Iterator[tuple[float, int, Entry]]:
    """The entries of a shard with their times, which never go back, and their items as the batch counts them."""
    latest = 0.0
    if one.folder.journal.exists():
        for _, entry in journal.entries(one.folder.journal, buffer_bytes):
            latest = max(latest, entry.at)
            yield latest, place, _counted_on(entry, one.before)


def _counted_on(entry: Entry, before: int) -> Entry:
    match entry:
        case Answered():
            twin = None if entry.same_as is None else entry.same_as + before
            return msgspec.structs.replace(entry, item=entry.item + before, same_as=twin)
        case Begun() | Reopened():
            return msgspec.structs.replace(entry, items=[item + before for item in entry.items])
        case Failed() | SetAside():
            return msgspec.structs.replace(entry, item=entry.item + before)
        case _:
            return entry


def _allow_files(count: int) -> None:
    """Have so many files open at a time, as far as the system lets this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 256
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
