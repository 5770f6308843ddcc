"""Jobs by name: their folders, their lock, and what is told of them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nexus_tasks.batches import job
from nexus_tasks.batches.entries import Session
from nexus_tasks.batches.job import Folder
from nexus_tasks.batches.options import Options
from nexus_tasks.batches.summary import summary_of
from nexus_tasks.core.errors import BatchError, UsageError
from tests.conftest import ROOT, wait_for
from tests.unit.batches.jobs import answered, declared, told

NOW = datetime(2026, 11, 30, 12, 34, 56, tzinfo=UTC)


def test_a_declaration_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = declared(tmp_path)
    read = folder.load()
    assert (read.name, read.targets, read.options) == ("night", ["gpu-hosts"], Options())
    assert read.input.asking.parameters == {"max_tokens": 5}


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"name": "night"}', b"\xff"], ids=["empty", "list", "lacks", "bytes"]
)
def test_a_damaged_declaration_is_one_line(tmp_path: Path, content: bytes) -> None:
    folder = declared(tmp_path)
    folder.declaration.write_bytes(content)
    with pytest.raises(BatchError, match=r"job\.json is not the declaration of a job"):
        folder.load()


@pytest.mark.parametrize(
    ("was", "edited"),
    [
        ('"format": "jsonl"', '"format": "xml"'),
        ('"path": "/data/prompts.jsonl"', '"path": "prompts.jsonl"'),
        ('"path": "/data/prompts.jsonl"', '"path": "/data/\\u0000"'),
        ('"rows": 3', '"rows": -3'),
        ('"items": 3', '"items": 2'),
        ('"items": 3', '"items": 1000000000000000'),
        ('"parameters": {', '"samples": -3, "parameters": {'),
        ('"parameters": {', '"api": "poetry", "parameters": {'),
    ],
    ids=["format", "relative", "nul", "rows", "items", "huge", "samples", "api"],
)
def test_values_that_no_declaration_has_are_refused(tmp_path: Path, was: str, edited: str) -> None:
    folder = declared(tmp_path)
    text = folder.declaration.read_text()
    assert was in text
    folder.declaration.write_text(text.replace(was, edited))
    with pytest.raises(BatchError, match=r"job\.json is not the declaration of a job: ") as error:
        folder.load()
    assert error.value.message.isprintable()


def test_a_folder_that_cannot_be_made_is_named() -> None:
    with pytest.raises(UsageError, match="/proc/nothing/night can't be made: No such file or directory"):
        job.create(Path("/proc/nothing"), "night")


def test_a_declaration_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    folder = declared(tmp_path)
    folder.declaration.write_bytes(folder.declaration.read_bytes().replace(b'"schema": 1', b'"schema": 2'))
    with pytest.raises(BatchError, match="has schema 2; this version reads 1"):
        folder.load()


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    declared(tmp_path)
    with pytest.raises(UsageError, match="there is a job night") as raised:
        job.create(tmp_path, "night")
    assert "resume" in raised.value.hint


def test_a_folder_whose_job_was_never_declared_is_taken_over(tmp_path: Path) -> None:
    job.create(tmp_path, "night").rows_index.write_bytes(b"half")
    assert job.folders(tmp_path) == []
    assert declared(tmp_path).load().name == "night"


@pytest.mark.parametrize(
    "name", ["a b", "nächtlich", "夜", "50%", "[bold]", "resume", "a'b\"c", "$(x)", "x" * 200], ids=str
)
def test_odd_names_are_names(tmp_path: Path, name: str) -> None:
    declared(tmp_path, name)
    assert job.find(tmp_path, name).load().name == name
    assert [folder.name for folder in job.folders(tmp_path)] == [name]


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "-n", "~x", "a/b", "a\nb", "\x1b[31m", " a", "a ", "x" * 201, "a\0b"], ids=ascii
)
def test_names_that_would_be_taken_for_something_else_are_refused(tmp_path: Path, name: str) -> None:
    for use in (job.create, job.find):
        with pytest.raises(UsageError):
            use(tmp_path, name)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("prompts.jsonl", "prompts-20261130T123456Z"),
        ("my prompts (1).csv", "my-prompts-1-20261130T123456Z"),
        ("[/].txt", "batch-20261130T123456Z"),
        ("-.txt", "batch-20261130T123456Z"),
        ("夜.txt", "夜-20261130T123456Z"),
    ],
    ids=["plain", "spaces", "marks", "dash", "letters"],
)
def test_a_name_is_made_of_the_file_and_the_time(tmp_path: Path, source: str, name: str) -> None:
    assert job.free_name(tmp_path, Path(source.replace("[/]", "[]")), NOW) == name
    (tmp_path / name).mkdir()
    assert job.free_name(tmp_path, Path(source.replace("[/]", "[]")), NOW) == f"{name}-2"
    job.check_name(name)


def test_a_long_file_name_makes_a_name_that_can_be_one(tmp_path: Path) -> None:
    job.check_name(job.free_name(tmp_path, Path("夜" * 80 + ".txt"), NOW))


def test_a_missing_job_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    declared(tmp_path, "night")
    with pytest.raises(UsageError, match="no job day") as raised:
        job.find(tmp_path, "day")
    assert "night" in raised.value.hint


def test_the_second_process_on_a_job_is_refused_with_the_first(tmp_path: Path) -> None:
    folder = declared(tmp_path)
    with holding(folder) as first:
        with pytest.raises(UsageError, match=rf"process {first.pid} \(sleeps\) since .* works on the job night"):
            folder.held("asks").__enter__()
        assert summary_of(folder).state == "running"
        assert f"process {first.pid}" in (summary_of(folder).holder or "")
        first.kill()
        first.wait()
        with folder.held("asks"):
            pass


def test_a_stopped_job_is_marked_as_cancelled_and_a_complete_one_is_not(tmp_path: Path) -> None:
    folder = declared(tmp_path)
    told(folder, Session(1.0), Session(2.0, "interrupted"))
    assert job.cancel(folder) == (None, True)
    assert summary_of(folder).state == "cancelled"
    told(folder, Session(3.0), *(answered(item, "Hi") for item in range(3)))
    assert job.cancel(folder) == (None, False)
    assert summary_of(folder).state == "complete"


def test_cancel_ends_the_process_that_works_on_the_job(tmp_path: Path) -> None:
    folder = declared(tmp_path)
    with holding(folder) as first:
        assert job.cancel(folder) == (first.pid, True)
        assert first.wait() == -signal.SIGTERM
    assert summary_of(folder).state == "cancelled"


def test_cancel_signals_nobody_who_only_has_the_number_of_the_holder(tmp_path: Path) -> None:
    folder = declared(tmp_path)
    with holding(folder), subprocess.Popen(["sleep", "1000"]) as stranger:
        signature = folder.lock.read_text()
        pid = signature.split('"pid": ')[1].split(",")[0]
        folder.lock.write_text(signature.replace(pid, str(stranger.pid)))
        with pytest.raises(UsageError, match="no process of this user on this machine"):
            job.cancel(folder)
        assert stranger.poll() is None
        stranger.kill()


HOLDER = """
import sys, time
from pathlib import Path
from nexus_tasks.batches.job import Folder
with Folder(Path(sys.argv[1])).held("sleeps"):
    time.sleep(1000)
"""


@contextlib.contextmanager
def holding(folder: Folder) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds a job's lock."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder.path)], cwd=ROOT) as process:
        try:
            wait_for(lambda: str(process.pid) in str(folder.holder()), "the lock to be held")
            yield process
        finally:
            process.kill()
