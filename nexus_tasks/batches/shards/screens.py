"""Lines about shards as they come to their ends, and what the batch came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from nexus_tasks.batches.shards import record
from nexus_tasks.batches.shards.plan import Plan
from nexus_tasks.batches.shards.work import Batch, Done
from nexus_tasks.core.errors import BatchError, NexusError
from nexus_tasks.core.text import plural


def follow(ended: Iterator[Done], plan: Plan, out: str, console: Console) -> int:
    """Tell of each shard as it ends, then of all; the exit status.

    Raises:
        BatchError: some did not come to their end.
    """

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    say(f"{plural(plan.rows, 'row')} in {plural(len(plan.shards), 'shard')}")
    done: list[Done] = []
    for shard in ended:
        done.append(shard)
        say(f"{shard.shard}: {told(shard)} ({len(done)} of {len(plan.shards)})")
    failed = [shard for shard in done if shard.error]
    answered, total = sum(shard.answered for shard in done), sum(shard.total for shard in done)
    set_aside = sum((Counter(shard.set_aside) for shard in done), Counter[str]())
    say(f"{answered:,} of {total:,} answered{_kinds(set_aside)}; the answers are in {out}")
    if failed:
        raise BatchError(
            f"{len(failed)} of {plural(len(plan.shards), 'shard')} did not come to an end, as {failed[0].shard}: "
            f"{failed[0].error}", hint=f"{failed[0].hint}; then run the same command again",
        )  # fmt: skip
    return 0 if answered == total else 1


def tell_record(batch: Batch, plan: Plan, root: Path, console: Console) -> None:
    """Write the record of all shards, and tell where; the batch is what it is without one."""
    try:
        path = record.write(batch, plan, root)
    except NexusError as error:
        console.print(f"no record was written: {error.message}", highlight=False, markup=False, soft_wrap=True)
    else:
        if path is not None:
            console.print(f"record: {path}", highlight=False, markup=False, soft_wrap=True)


def told(shard: Done) -> str:
    """A shard's outcome in a few words."""
    return shard.error or f"{shard.answered:,} of {shard.total:,} answered{_kinds(Counter(shard.set_aside))}"


def _kinds(set_aside: Counter[str]) -> str:
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in set_aside.most_common())
    return f", set aside: {kinds}" if kinds else ""
