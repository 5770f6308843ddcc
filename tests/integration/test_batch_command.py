"""The command ``batch``, with a real server: jobs that are interrupted, cancelled, changed and exported.

Kills are in test_batch_kills.py.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyarrow import parquet

from nexus_tasks import batch
from nexus_tasks.batches import journal
from nexus_tasks.batches.entries import Answered, Begun, Entry, Session
from nexus_tasks.batches.job import Folder
from nexus_tasks.records import store
from tests.conftest import ROOT, RunningServer, wait_for
from tests.support import small_disk
from tests.support.small_disk import needs_mount

LOOKING = {"status", "list", "export", "cancel"}
ARGV = [sys.executable, "-m", "nexus_tasks.batch"]


@dataclass
class Said:
    """Texts that a command printed."""

    out: str = ""
    err: str = ""


@contextlib.contextmanager
def streams() -> Iterator[Said]:
    """Take what is printed within the block; it is there after it."""
    said = Said()
    out, err = io.BytesIO(), io.BytesIO()
    # As a process has them, with bytes below.
    text = (io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True) for stream in (out, err))
    with contextlib.redirect_stdout(next(text)), contextlib.redirect_stderr(next(text)):
        try:
            yield said
        finally:
            said.out, said.err = out.getvalue().decode(), err.getvalue().decode()


class Bench:
    """Jobs in a folder of a test's own, and the server that they ask."""

    def __init__(self, folder: Path, server: RunningServer) -> None:
        self.folder, self.url, self.jobs = folder, server.base_url, folder / "jobs"
        self.file = folder / "prompts.jsonl"

    def prompts(self, count: int, changed: tuple[int, ...] = ()) -> Path:
        """Write the input: row i is at line i + 1."""
        rows = [
            {"id": f"q-{number}", "prompt": f"Say {number}{'!' * (number in changed)}", "topic": 'sky, "blue"\n'}
            for number in range(count)
        ]
        self.file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return self.file

    def run(self, *words: str | Path, status: int = 0) -> Said:
        """Run the command to its end, in this process: to start one takes a second."""
        with streams() as said:
            found = batch.main(self.words(words))
        assert found == status, said.err
        return said

    @contextlib.contextmanager
    def started(self, *words: str | Path) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen([*ARGV, *self.words(words)], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def words(self, words: Sequence[str | Path]) -> list[str]:
        """The words of a command, with this folder's jobs and records."""
        results = ["--results", str(self.folder)] if words[0] not in LOOKING else []
        return [*map(str, words), "--jobs", str(self.jobs), *results]

    def begin(self, *words: str) -> list[str]:
        return [str(self.file), self.url, "--name", "night", "--max-tokens", "8", "--temperature", "0", *words]

    def entries(self) -> list[Entry]:
        return [entry for _, entry in journal.entries(self.job.journal)]

    @property
    def job(self) -> Folder:
        return Folder(self.jobs / "night")

    @property
    def answers(self) -> int:
        return sum(isinstance(entry, Answered) for entry in self.entries()) if self.job.journal.exists() else 0


@pytest.fixture
def bench(tmp_path: Path, server: RunningServer) -> Bench:
    return Bench(tmp_path, server)


def answered(entries: list[Entry]) -> Counter[int]:
    return Counter(entry.item for entry in entries if isinstance(entry, Answered))


def begun(entries: list[Entry]) -> Counter[int]:
    return Counter(item for entry in entries if isinstance(entry, Begun) for item in entry.items)


def test_a_batch_is_begun_looked_at_and_exported_in_every_format(bench: Bench) -> None:
    bench.prompts(6)
    done = bench.run(*bench.begin())
    assert "6 of 6" in done.err
    status = json.loads(bench.run("status", "night", "--json").out)
    assert (status["state"], status["answered"], status["remaining"]) == ("complete", 6, 0)
    [path] = store.paths("batch", bench.folder)
    assert f"record: {path}" in done.err
    record = store.load(path, "batch")
    assert (record.header.target, record.summary and record.summary.answered) == ("night", 6)
    assert [one["name"] for one in json.loads(bench.run("list", "--json").out)] == ["night"]

    lines = [json.loads(line) for line in bench.run("export", "night").out.splitlines()]
    assert [line["id"] for line in lines] == [f"q-{number}" for number in range(6)]
    assert all(line["answer"] and line["finish_reason"] and line["usage"]["output_tokens"] for line in lines)
    assert {line["metadata"]["topic"] for line in lines} == {'sky, "blue"\n'}

    assert json.loads(bench.run("export", "night", "--format", "json").out) == lines
    table = list(csv.DictReader(bench.run("export", "night", "--format", "csv").out.splitlines(keepends=True)))
    assert [(row["id"], row["answer"], row["topic"]) for row in table] == [
        (line["id"], line["answer"], line["metadata"]["topic"]) for line in lines
    ]
    bench.run("export", "night", "--format", "parquet", "--out", bench.folder / "out.parquet")
    columns = parquet.read_table(bench.folder / "out.parquet").to_pydict()
    assert columns["answer"] == [line["answer"] for line in lines]
    assert columns["line"] == [1, 2, 3, 4, 5, 6]
    responses = [json.loads(line) for line in bench.run("export", "night", "--format", "openai").out.splitlines()]
    assert [one["response"]["body"]["choices"][0]["message"]["content"] for one in responses] == columns["answer"]


STOPPING = pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["ctrl-c", "term", "closed terminal"]
)


@STOPPING
def test_an_interrupted_batch_is_130_and_goes_on(bench: Bench, number: signal.Signals) -> None:
    bench.prompts(20)
    with bench.started(*bench.begin()) as process:
        wait_for(lambda: bench.answers >= 2, "two answers")
        process.send_signal(number)
        assert process.wait(60) == 130
        assert process.stderr
        assert "resume night" in process.stderr.read()
    last = bench.entries()[-1]
    assert isinstance(last, Session)
    assert last.ended == "interrupted"
    assert json.loads(bench.run("status", "night", "--json").out)["state"] == "interrupted"
    bench.run("resume", "night")
    assert answered(bench.entries()) == dict.fromkeys(range(20), 1)


@STOPPING
def test_a_batch_that_is_stopped_before_it_asks_is_130_and_leaves_nothing(bench: Bench, number: signal.Signals) -> None:
    bench.prompts(3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with bench.started(bench.file, url, "--name", "night") as process, silent.accept()[0]:  # it asks what is there
            process.send_signal(number)
            assert process.wait(60) == 130
    assert not bench.job.path.exists()


def test_a_running_batch_is_looked_at_refused_to_others_and_cancelled(bench: Bench) -> None:
    bench.prompts(500)
    with bench.started(*bench.begin()) as process:
        wait_for(lambda: bench.answers >= 1, "an answer")
        status = json.loads(bench.run("status", "night", "--json").out)
        assert (status["state"], status["items"]) == ("running", 500)
        assert f"process {process.pid}" in status["holder"]
        exported = bench.run("export", "night").out.splitlines()
        assert len(exported) == 500
        assert json.loads(exported[-1])["error"] == {"kind": "pending", "message": "has no answer yet"}
        second = bench.run("resume", "night", status=2)
        assert f"process {process.pid}" in second.err
        assert "there is a job night" in bench.run(*bench.begin(), status=2).err
        assert f"process {process.pid}" in bench.run("cancel", "night").out
        assert process.wait(60) == 130
    assert json.loads(bench.run("status", "night", "--json").out)["state"] == "cancelled"


def test_a_changed_input_is_refused_and_asked_again_only_where_it_differs(bench: Bench) -> None:
    bench.prompts(6)
    bench.run(*bench.begin())
    bench.prompts(8, changed=(2, 4))
    refused = bench.run("resume", "night", status=2)
    assert "2 rows differ, the first on line 3; 2 rows are new" in refused.err
    assert "--allow-change" in refused.err
    assert "changed since" in bench.run("export", "night", status=2).err
    before = len(bench.entries())
    bench.run("resume", "night", "--allow-change")
    assert begun(bench.entries()[before:]) == dict.fromkeys((2, 4, 6, 7), 1)
    assert len(bench.run("export", "night").out.splitlines()) == 8


def test_other_options_are_a_change_and_named(bench: Bench) -> None:
    bench.prompts(2)
    bench.run(*bench.begin())
    refused = bench.run("resume", "night", "--max-tokens", "9", status=2)
    assert "max_tokens is 9 instead of 8; 2 rows differ, the first on line 1" in refused.err
    bench.run("resume", "night", "--max-tokens", "9", "--allow-change")
    assert answered(bench.entries()) == {0: 2, 1: 2}
    bench.run("resume", "night", "--attempts", "9")  # how long it is tried changes no answer


def test_rows_that_cannot_be_asked_are_failures_and_the_others_are_answered(bench: Bench) -> None:
    bench.prompts(3)
    bench.file.write_text(bench.file.read_text() + '{"prompt": \n{"topic": "none"}\n')
    done = bench.run(*bench.begin(), status=1)
    assert "3 of 5" in done.err
    bench.run("retry-failed", "night", status=1)
    out = bench.folder / "out.jsonl"
    bench.run("export", "night", "--format", "openai", "--out", out)
    errors = [json.loads(line) for line in (bench.folder / "out.errors.jsonl").read_text().splitlines()]
    assert [(line["custom_id"], line["error"]["code"]) for line in errors] == [("4", "malformed"), ("5", "no_prompt")]
    assert len(out.read_text().splitlines()) == 3
    assert answered(bench.entries()) == {0: 1, 1: 1, 2: 1}


def test_a_journal_that_was_cut_goes_on_and_one_that_was_edited_is_refused(bench: Bench) -> None:
    bench.prompts(4)
    bench.run(*bench.begin())
    whole = bench.job.journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if b'"answered"' in line)
    bench.job.journal.write_bytes(whole.replace(lines[place], lines[place].replace(b'"tiny"', b'"huge"')))
    for command in ("resume", "status", "export"):
        assert f"line {place + 1}: " in bench.run(command, "night", status=1).err
    bench.job.journal.write_bytes(b"".join(lines[: place + 1])[:-7])
    assert "cut off" in bench.run("resume", "night").err
    assert answered(bench.entries()) == dict.fromkeys(range(4), 1)


@needs_mount
def test_a_full_disk_stops_the_batch_and_with_room_it_goes_on(bench: Bench) -> None:
    bench.prompts(12)
    bench.jobs.mkdir()
    ballast = bench.jobs / "ballast"
    with small_disk.mounted(bench.jobs, "1m"):
        with bench.started(*bench.begin()) as process:
            wait_for(lambda: bench.answers >= 2, "two answers")
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
                while stream.write(b"\0" * 512):
                    pass
            assert process.wait(120) == 1
            assert process.stderr
            assert "No space left" in process.stderr.read()
        before = bench.answers
        assert before < 12
        bench.run("resume", "night", status=1)
        ballast.unlink()
        bench.run("resume", "night")
        assert answered(bench.entries()) == dict.fromkeys(range(12), 1)


def test_a_job_with_an_odd_name_does_what_others_do(bench: Bench) -> None:
    name = "[bold]näch't $(x) 夜"
    bench.prompts(1)
    bench.run(*bench.begin(), "--name", name)
    for command in ("status", "export", "resume", "cancel"):
        done = bench.run(command, name)
        assert command == "export" or name in done.out + done.err, command
    assert name in bench.run("list").out


def test_no_server_leaves_no_job(bench: Bench) -> None:
    bench.prompts(1)
    done = bench.run(str(bench.file), "http://127.0.0.1:9", "--name", "night", status=1)
    assert "error: " in done.err
    assert not bench.job.path.exists()
