"""Kills of a batch and of its server at random instants: no row is lost, none is asked again once it was answered."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nexus_tasks.batches import journal
from nexus_tasks.batches.entries import Answered
from nexus_tasks.batches.job import Folder
from nexus_tasks.batches.state import ANSWERED
from tests.conftest import wait_for
from tests.support import batch_jobs
from tests.support.batch_jobs import MARK, NAME
from tests.support.counting_proxy import Proxy, Sent, counting
from tests.support.mortal_server import MortalServer
from tests.workers import tell


@dataclass(frozen=True)
class Size:
    """Rows, and how often the batch and its server are killed."""

    rows: int
    kills: int
    server_kills: int


@dataclass
class Trial:
    """What was seen: rows that were sent though the journal had their answer, and kills by what was done before."""

    sent_again: list[int] = field(default_factory=list)
    kills: int = 0
    server_kills: int = 0


SMALL = Size(rows=60, kills=10, server_kills=2)
FULL = Size(rows=1000, kills=100, server_kills=20)


@pytest.fixture
def mortal(llama_server_bin: Path, tiny_model: Path, tmp_path: Path) -> Iterator[MortalServer]:
    """A llama-server with four slots that can be killed and started again at its address."""
    with MortalServer(llama_server_bin, tiny_model, tmp_path / "server.log", "--parallel", "4") as server:
        yield server


def rows_of(sent: Sequence[Sent]) -> list[int]:
    """The rows that requests asked."""
    return [int(found[1]) for one in sent if (found := MARK.search(one.body))]


def answered(jobs: Path, rows: int) -> set[int]:
    """The rows that the journal has an answer of."""
    return set(journal.read(Folder(jobs / NAME).journal, rows).items(ANSWERED).tolist())


def run_and_kill(jobs: Path, size: Size, proxy: Proxy, server: MortalServer, draws: random.Random) -> Trial:
    """Run the job to its end; kill it, and its server, while requests are under way."""
    trial = Trial()
    rows = jobs / "rows.jsonl"
    batch_jobs.write_rows(rows, size.rows)
    per_kill = size.rows // size.kills
    kill_server_at = set(draws.sample(range(size.kills), size.server_kills))
    while True:
        before, known = len(proxy.sent), answered(jobs, size.rows)
        process = batch_jobs.begin(rows, proxy.base_url, jobs=jobs, options=["--max-tokens", "24"])
        try:
            if trial.kills < size.kills:
                kill_at(before + draws.randint(0, 2 * per_kill - 4), process, proxy, draws)
            if trial.kills in kill_server_at:
                kill_server_at.discard(trial.kills)
                wait_for(lambda: len(proxy.sent) > before or process.poll() is not None, "a request", 900)  # noqa: B023
                server.kill()
                time.sleep(draws.uniform(0, 0.5))  # an instant at random is what is tried
                server.start()
                trial.server_kills += 1
            wait_for(lambda: process.poll() is not None, "the end, or a kill", 900)  # noqa: B023
        finally:
            process.kill()
            proxy.on_sent = lambda: None
        trial.sent_again += [row for row in rows_of(proxy.sent[before:]) if row in known]
        if process.wait() >= 0:
            assert process.returncode == 0, batch_jobs.said(jobs)[-3000:]
            return trial
        trial.kills += 1


def kill_at(count: int, process: subprocess.Popen[bytes], proxy: Proxy, draws: random.Random) -> None:
    """Kill a process a moment after so many requests were sent; where they were before, at any moment of its start."""
    if len(proxy.sent) >= count:
        time.sleep(draws.uniform(0, 1.5))
        process.kill()
        return
    moments = [draws.uniform(0, 0.05)]

    def on_sent() -> None:
        if len(proxy.sent) >= count and moments:
            threading.Timer(moments.pop(), process.kill).start()

    proxy.on_sent = on_sent


@pytest.mark.parametrize(
    "size", [pytest.param(SMALL, id="small"), pytest.param(FULL, id="full", marks=pytest.mark.soak)]
)
def test_a_batch_that_is_killed_over_and_over_answers_each_row_once(
    mortal: MortalServer, tmp_path: Path, size: Size, pytestconfig: pytest.Config
) -> None:
    with counting(mortal.base_url) as proxy:
        trial = run_and_kill(tmp_path, size, proxy, mortal, random.Random(size.rows))  # noqa: S311 - no secret
        asked = Counter(rows_of(proxy.sent))
    assert trial.sent_again == []
    assert trial.kills >= size.kills // 2
    results = Counter(entry.item for entry in batch_jobs.entries_of(tmp_path) if isinstance(entry, Answered))
    assert results == dict.fromkeys(range(size.rows), 1)
    assert set(asked) == set(range(size.rows))
    exported = batch_jobs.exported(tmp_path)
    assert [row["id"] for row in exported] == [f"row-{number}" for number in range(size.rows)]
    assert all(row["answer"] for row in exported)
    killed = f"{trial.kills} kills, and {trial.server_kills} of the server"
    tell(pytestconfig, f"{killed}: {asked.total()} requests for {size.rows} rows")
