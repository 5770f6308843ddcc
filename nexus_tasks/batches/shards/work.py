"""Work on one shard: a job like any other, resumed from its journal where it was begun.

done = work(batch, shard)           # in a process of its own, on whichever node
done.answered, done.total, done.error
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import fsspec
import msgspec
from rich.console import Console

from nexus_tasks.batches import sessions
from nexus_tasks.batches.asking import Asking
from nexus_tasks.batches.exports import files
from nexus_tasks.batches.index import Index
from nexus_tasks.batches.inputs import Input
from nexus_tasks.batches.job import Folder, Job
from nexus_tasks.batches.options import COMPLETE, Options
from nexus_tasks.batches.shards.mirror import mirrored
from nexus_tasks.batches.shards.plan import Shard, extract
from nexus_tasks.batches.sources import Source
from nexus_tasks.batches.state import ANSWERED
from nexus_tasks.core.errors import NexusError


class Batch(msgspec.Struct, frozen=True):
    """A batch in shards: from where, to where, and what is asked of whom.

    Args:
        address: of the Parquet files.
        out: address of a folder, which gets a Parquet file a shard, and below ``jobs`` each shard's job.
        targets: base URLs that the nodes reach.
        allow_change: as for :func:`nexus_tasks.batches.sessions.resume`.
    """

    address: str
    out: str
    targets: list[str]
    asking: Asking
    options: Options
    model: str | None = None
    allow_change: bool = False

    @property
    def jobs(self) -> str:
        return f"{self.out.rstrip('/')}/jobs"


class Done(msgspec.Struct, frozen=True):
    """A shard that was worked on; ``error`` and ``hint`` say why it has not come to its end."""

    shard: str
    total: int
    answered: int = 0
    set_aside: dict[str, int] = {}
    output_tokens: int = 0
    error: str | None = None
    hint: str = ""


def work(batch: Batch, shard: Shard) -> Done:
    """Begin a shard or go on with it, and write what came of its rows."""
    try:
        with mirrored(batch.jobs, shard.name) as root:
            done = _session(batch, shard, root)
            if done.outcome.ended == COMPLETE:
                _export(done.folder, f"{batch.out.rstrip('/')}/{shard.name}.parquet")
    except NexusError as error:
        return Done(shard.name, shard.rows, error=error.message, hint=error.hint)
    state, outcome = done.state, done.outcome
    return Done(
        shard.name, state.total, state.count(ANSWERED), state.set_aside(), state.tokens.output,
        None if outcome.ended == COMPLETE else outcome.ended, outcome.hint,
    )  # fmt: skip


def _session(batch: Batch, shard: Shard, root: Path) -> sessions.Done:
    folder, rows = Folder(root / shard.name), root / f"{shard.name}.parquet"
    place = sessions.Place(Console(file=io.StringIO()), root / "records")  # what a worker prints is nobody's to read
    wanted = Job(
        name=shard.name, created_at="", input=Input(Source(str(rows), "parquet"), batch.asking),
        index=Index(0, 0, {}, ""), targets=batch.targets, options=batch.options, model=batch.model,
    )  # fmt: skip
    if not folder.declaration.exists():
        extract(batch.address, shard, rows, batch.asking.columns.id or "id")
        return sessions.begin(root, wanted, place)

    def as_wanted(before: Job) -> Job:
        return msgspec.structs.replace(wanted, created_at=before.created_at, index=before.index)

    return sessions.resume(folder, as_wanted, place, allow_change=batch.allow_change)


def _export(folder: Folder, address: str) -> None:
    """Write the answers to an address; a file gets its name there when it is whole."""
    there, path = fsspec.core.url_to_fs(address)
    with tempfile.TemporaryDirectory(prefix="llama-nexus-") as here:
        [written] = files.write(folder, "parquet", Path(here) / "answers.parquet")
        there.put_file(str(written), f"{path}.draft")
        there.mv(f"{path}.draft", path)
