"""Batches on a real Ray cluster of this machine, whose workers are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from nexus_tasks.batches import journal
from nexus_tasks.batches.entries import Answered
from nexus_tasks.batches.job import Folder
from nexus_tasks.batches.state import ANSWERED
from nexus_tasks.records import store
from tests.conftest import cache_folder, run_server, wait_for
from tests.support import ray_packages
from tests.support.batch_jobs import MARK
from tests.support.counting_proxy import Proxy, counting
from tests.workers import once

ROWS, SHARD_ROWS = 36, 12
POISON = 7  # has no prompt


@pytest.fixture(scope="session")
def ray_environment(pytestconfig: pytest.Config) -> Iterator[dict[str, str]]:
    """The environment of processes that have Ray; what Ray writes goes to a folder whose path its sockets can have."""
    packages = once(pytestconfig, "ray", lambda: str(ray_packages.make(cache_folder())))
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield {
            **os.environ, "PYTHONPATH": packages, "RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0", "COLUMNS": "200",
        }  # fmt: skip


@pytest.fixture
def proxy(llama_server_bin: Path, tiny_model: Path, tmp_path: Path) -> Iterator[Proxy]:
    with (
        run_server(llama_server_bin, tiny_model, tmp_path / "server.log", "--parallel", "4") as server,
        counting(server.base_url) as proxy,
    ):
        yield proxy


def write_input(path: Path) -> None:
    """Parquet without ids; one row has no prompt."""
    prompts = [None if number == POISON else f"row-{number}. Tell me more." for number in range(ROWS)]
    parquet.write_table(pa.table({"prompt": prompts, "topic": ["sky"] * ROWS}), path, row_group_size=10)


def begin(folder: Path, base_url: str, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nexus_tasks.batch", folder / "rows.parquet", base_url, "--engine", "ray",
         "--address", "local", "--out", folder / "out", "--shard-rows", str(SHARD_ROWS), "--max-tokens", "48",
         "--results", folder / "results"],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_a_shard_whose_worker_is_killed_goes_on_from_its_journal(
    proxy: Proxy, tmp_path: Path, ray_environment: dict[str, str]
) -> None:
    write_input(tmp_path / "rows.parquet")
    shard = Folder(tmp_path / "out" / "jobs" / "shard-00001")
    with begin(tmp_path, proxy.base_url, ray_environment) as process:

        def answers() -> set[int]:
            assert process.poll() is None, process.communicate()
            return set(journal.read(shard.journal, SHARD_ROWS).items(ANSWERED).tolist())

        wait_for(answers, "answers of the second shard")
        holder = shard.holder()
        assert holder
        assert holder.pid
        os.kill(holder.pid, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{holder.pid}/fd/0").exists(), "the worker's end")
        known, before = answers(), len(proxy.sent)
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 1, said
    assert "35 of 36 answered, set aside: no_prompt 1" in said
    [path] = (tmp_path / "results" / "batch").iterdir()
    summary = msgspec.to_builtins(store.load(path, "batch").summary)
    assert (summary["answered"], summary["set_aside"], summary["left"]) == (35, 1, 0)
    assert (summary["outcome"], f"record: {path}" in said) == ("complete", True)
    sent_again = {int(found[1]) - SHARD_ROWS for one in proxy.sent[before:] if (found := MARK.search(one.body))}
    assert known & sent_again == set()
    results = Counter(entry.item for _, entry in journal.entries(shard.journal) if isinstance(entry, Answered))
    assert results == dict.fromkeys(range(SHARD_ROWS), 1)
    rows = parquet.read_table(sorted((tmp_path / "out").glob("*.parquet"))).to_pylist()
    assert [row["id"] for row in rows] == [str(number) for number in range(1, ROWS + 1)]
    assert [number for number, row in enumerate(rows) if row["answer"] is None] == [POISON]
    assert rows[POISON]["error_kind"] == "no_prompt"
