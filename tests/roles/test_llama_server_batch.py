"""A batch goes on while a deployment switches the server that it asks."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest

from nexus_tasks.batches.entries import Answered, SetAside
from nexus_tasks.batches.job import Folder
from tests.conftest import wait_for
from tests.roles.machine import Machine, deploy, status
from tests.support import batch_jobs

ROWS = 10_000  # more than are answered meanwhile


# The drain lets requests end, or cuts them off.
@pytest.mark.parametrize("drain_timeout", [5, pytest.param(0, marks=pytest.mark.soak)])
@pytest.mark.parametrize("trial", ["never", pytest.param("always", marks=pytest.mark.soak)])
def test_no_row_fails_of_a_batch_whose_server_is_switched(
    machine: Machine, tmp_path: Path, trial: str, drain_timeout: int
) -> None:
    before = machine.instance("main", "--ctx-size", "2048")
    deploy(machine.declaring(before))
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    batch_jobs.write_rows(jobs / "rows.jsonl", ROWS)
    journal = Folder(jobs / batch_jobs.NAME).journal

    def answers() -> int:
        return journal.read_bytes().count(b'"answered"') if journal.exists() else 0

    with batch_jobs.begin(
        jobs / "rows.jsonl", f"http://127.0.0.1:{machine.port}", jobs=jobs, options=["--max-tokens", "24"]
    ) as process:
        wait_for(lambda: answers() >= 5, "answers")
        after = machine.instance("main", "--ctx-size", "3072")
        after["proof"] = {**after["proof"], "drain_timeout": drain_timeout}
        pid = status(machine.declaring(before)).pid
        [row] = deploy(machine.declaring(after, trial=trial))
        assert row["state"] == "verified", row
        switched = answers()
        wait_for(lambda: answers() >= switched + 5, "answers of the new server")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130, batch_jobs.said(jobs)
    assert status(machine.declaring(after)).pid != pid
    entries = batch_jobs.entries_of(jobs)
    assert not [entry for entry in entries if isinstance(entry, SetAside)]
    assert max(Counter(entry.item for entry in entries if isinstance(entry, Answered)).values()) == 1
