"""The record of a batch in shards is that of one job that did all of their work."""

from __future__ import annotations

from pathlib import Path

import fsspec
import msgspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from nexus_tasks.batches import index, job, journal
from nexus_tasks.batches.asking import Asking
from nexus_tasks.batches.entries import Answer, Answered, Begun, Entry, Server, Session, SetAside, Usage
from nexus_tasks.batches.inputs import Input
from nexus_tasks.batches.job import Job
from nexus_tasks.batches.options import COMPLETE, Options
from nexus_tasks.batches.shards import plan, record
from nexus_tasks.batches.shards.mirror import Mirror
from nexus_tasks.batches.shards.plan import Plan, Shard
from nexus_tasks.batches.shards.work import Batch
from nexus_tasks.batches.sources import Source
from nexus_tasks.records import store
from nexus_tasks.records.store import BatchRecord

RIG = "http://rig:3000"


def answered(item: int, at: float) -> Answered:
    answer = Answer(text=f"answer {item}", finish_reason="stop")
    return Answered(item, "aa", RIG, "qwen", "b1", at, 1000.0, answer, Usage(3, 5))


FIRST: list[Entry] = [
    Session(100.0), Server(RIG, 100.0, "qwen", "b1", 4, 1024), Begun([0, 1], RIG, 100.0), answered(0, 102.0),
    answered(1, 104.0), Session(104.0, COMPLETE),
]  # fmt: skip
SECOND: list[Entry] = [
    Session(102.0), Begun([0], RIG, 102.0), Session(103.0), Begun([0], RIG, 103.0), answered(0, 106.0),
    SetAside(1, 107.0, "too_long", "too many tokens"), Session(108.0, COMPLETE),
]  # fmt: skip


class Bench:
    """Shards of four rows at an address, worked on as far as some entries say."""

    def __init__(self, folder: Path, out: str) -> None:
        self.folder = folder
        parquet.write_table(pa.table({"prompt": [f"prompt {row}" for row in range(4)]}), folder / "rows.parquet")
        self.batch = Batch(str(folder / "rows.parquet"), out, [RIG], Asking(), Options())
        self.plan: Plan = plan.kept(self.batch.jobs, plan.planned(self.batch.address, 2))

    def work(self, shard: Shard, root: Path, entries: list[Entry]) -> None:
        rows = root / f"{shard.name}.parquet"
        root.mkdir(parents=True, exist_ok=True)
        plan.extract(self.batch.address, shard, rows, "id")
        folder = job.create(root, shard.name)
        given = Input(Source(str(rows), "parquet"))
        found = index.write(given, folder.rows_index)
        folder.declare(Job(shard.name, f"2026-11-30T12:00:0{shard.number}+00:00", given, found, [RIG], Options()))
        with journal.opened(folder.journal, found.items) as log:
            log.write(entries)

    def written(self) -> BatchRecord:
        path = record.write(self.batch, self.plan, self.folder / "results")
        assert path is not None
        return store.load(path, "batch")


def test_the_shards_of_a_batch_have_one_record(tmp_path: Path) -> None:
    bench = Bench(tmp_path, str(tmp_path / "out"))
    for shard, entries in zip(bench.plan.shards, (FIRST, SECOND), strict=True):
        bench.work(shard, Path(bench.batch.jobs), entries)
    found = bench.written()
    summary = msgspec.to_builtins(found.summary)
    assert (summary["items"], summary["answered"], summary["set_aside"], summary["left"]) == (4, 3, 1, 0)
    assert (summary["requests"], summary["repeated"], summary["output_tokens"]) == (4, 1, 15)
    assert (summary["outcome"], summary["seconds"], "energy" in summary) == (COMPLETE, 8.0, False)
    assert (found.header.job.name, found.header.job.created_at) == ("out", "2026-11-30T12:00:00+00:00")
    assert (found.header.input.name, found.header.input.rows) == ("rows.parquet", 4)
    [failure] = found.failures
    assert [(one.line, one.id) for one in failure.examples] == [(4, "4")]
    assert {one.line: one.prompt for one in found.answers} == {1: "prompt 0", 2: "prompt 1", 3: "prompt 2"}


@pytest.mark.parametrize("begun", [0, 1])
def test_a_batch_that_did_not_come_to_its_end_is_told_as_such(tmp_path: Path, begun: int) -> None:
    bench = Bench(tmp_path, str(tmp_path / "out"))
    for shard in bench.plan.shards[:begun]:
        bench.work(shard, Path(bench.batch.jobs), FIRST)
    if not begun:
        assert record.write(bench.batch, bench.plan, tmp_path / "results") is None
        return
    summary = msgspec.to_builtins(bench.written().summary)
    assert (summary["outcome"], summary["left"]) == ("1 of 2 shards did not come to an end", 2)


def test_journals_at_an_address_are_fetched(tmp_path: Path) -> None:
    bench = Bench(tmp_path, f"memory://{tmp_path.name}/out")
    files, path = fsspec.core.url_to_fs(bench.batch.jobs)
    for shard, entries in zip(bench.plan.shards, (FIRST, SECOND), strict=True):
        bench.work(shard, tmp_path / "node", entries)
        Mirror(files, f"{path}/{shard.name}", tmp_path / "node" / shard.name).push()
    found = bench.written()
    assert msgspec.to_builtins(found.summary)["answered"] == 3
    assert sorted(one.prompt or "" for one in found.answers) == ["prompt 0", "prompt 1", "prompt 2"]
