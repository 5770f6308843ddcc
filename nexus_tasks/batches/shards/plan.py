"""Plan of a batch in shards: runs of rows of the Parquet files at an address.

    plan = kept("s3://bucket/answers/jobs", planned("s3://bucket/prompts", shard_rows=10_000))
    extract(plan.address, plan.shards[3], Path("shard-00003.parquet"), id_column="id")

A row without an id gets its number among the rows of all files, from 1: a shard's own lines would begin anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import msgspec
import pyarrow as pa
from pyarrow import parquet

from nexus_tasks.core.errors import UsageError


class Shard(msgspec.Struct, frozen=True):
    """Rows ``first`` (from 0) to ``first + rows`` of the file at ``path``; ``before`` rows are in shards before it."""

    number: int
    path: str
    first: int
    rows: int
    before: int

    @property
    def name(self) -> str:
        return f"shard-{self.number:05d}"


class Plan(msgspec.Struct, frozen=True):
    """The shards of an input, and the sizes in bytes of its files, by which another input is told."""

    address: str
    sizes: dict[str, int]
    shards: list[Shard]

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)


def planned(address: str, shard_rows: int) -> Plan:
    """The shards of the Parquet files at an address: of a file, of those in a folder, or of a pattern.

    Raises:
        UsageError: there are none, one is damaged, or there is no way to the address.
    """
    sizes: dict[str, int] = {}
    shards: list[Shard] = []
    before = 0
    with using(address) as (files, path):
        for name in _names(files, path):
            with _opened(files, name) as file:
                total = file.metadata.num_rows
            sizes[name] = files.size(name)
            for first in range(0, total, shard_rows):
                shards.append(Shard(len(shards), name, first, min(shard_rows, total - first), before + first))
            before += total
    if not shards:
        raise UsageError(f"there are no rows in the Parquet files at {address}", hint="name a file, folder or pattern")
    return Plan(address, sizes, shards)


def kept(jobs: str, plan: Plan) -> Plan:
    """The plan, once it is written beside the shards' jobs, or found there as it is.

    Args:
        jobs: address of their folder.

    Raises:
        UsageError: the jobs there are of another plan.
    """
    with using(jobs) as (files, path):
        if not files.exists(f"{path}/plan.json"):
            files.makedirs(path, exist_ok=True)
            files.pipe_file(f"{path}/plan.json", msgspec.json.encode(plan))
            return plan
        before = msgspec.json.decode(files.cat_file(f"{path}/plan.json"), type=Plan)
    if before != plan:
        raise UsageError(
            f"{jobs} was begun with other files, or other shards: {before.address}, {before.rows:,} rows in "
            f"{len(before.shards):,}", hint="name another --out, or give the same input and --shard-rows",
        )  # fmt: skip
    return plan


def extract(address: str, shard: Shard, into: Path, id_column: str) -> None:
    """Write the rows of a shard to a file of its own.

    Args:
        address: of the plan.
        id_column: gets the number of each row where the file has no such column.
    """
    draft = into.with_suffix(".draft")
    with using(address) as (files, _), _opened(files, shard.path) as file:
        schema = file.schema_arrow
        numbered = id_column not in schema.names
        if numbered:
            schema = schema.append(pa.field(id_column, pa.int64()))
        with parquet.ParquetWriter(draft, schema) as writer:
            number = shard.before
            for rows in _slices(file, shard):
                if numbered:
                    numbers = pa.array(range(number + 1, number + rows.num_rows + 1), pa.int64())
                    rows = rows.append_column(schema.field(id_column), numbers)
                writer.write_table(rows)
                number += rows.num_rows
    draft.replace(into)


def absolute(address: str) -> str:
    """The address as other nodes have it: a path of this machine's from its root."""
    return address if "://" in address else str(Path(address).absolute())


@contextlib.contextmanager
def using(address: str) -> Iterator[tuple[Any, str]]:
    """The file system of an address, and the path there, for a block in which both are used.

    Raises:
        UsageError: its package is missing, or what it says about files: there are none, or none that may be read.
    """
    try:
        yield fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise UsageError(f"no way to {address}: {error}", hint="install it beside Ray, on all nodes") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"no way to {address}: {reason}", hint="check the address, and who may read it") from error


def _names(files: Any, path: str) -> list[str]:
    if files.isdir(path):
        return sorted(files.glob(f"{path.rstrip('/')}/*.parquet"))
    return sorted(files.glob(path)) if "*" in path else [path]


@contextlib.contextmanager
def _opened(files: Any, name: str) -> Iterator[Any]:
    with files.open(name, "rb") as stream, parquet.ParquetFile(stream) as file:
        yield file


def _slices(file: Any, shard: Shard) -> Iterator[Any]:
    """The rows of a shard as tables, without those of row groups that it has no part of."""
    at, end = 0, shard.first + shard.rows
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if at < end and at + count > shard.first:
            place = at
            for batch in file.iter_batches(row_groups=[group], use_threads=False):
                low, high = max(shard.first - place, 0), min(end - place, batch.num_rows)
                if low < high:
                    yield pa.Table.from_batches([batch.slice(low, high - low)])
                place += batch.num_rows
        at += count
