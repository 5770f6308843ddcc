"""The command ``batch``: its words, mistakes in them, and exit statuses."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexus_tasks import batch
from nexus_tasks.batches.job import Folder
from tests.support.batch_server import BatchServer, Request
from tests.unit.batches.jobs import declared


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer() as server:
        yield server


def run(tmp_path: Path, *words: str) -> int:
    """Run the command with its jobs in a folder of the test's own; the first word may be a file in it."""
    given = [str(tmp_path / word) if word.startswith("prompts") else word for word in words]
    results = ["--results", str(tmp_path)] if words[0] not in ("status", "list", "export", "cancel") else []
    return batch.main([*given, "--jobs", str(tmp_path / "jobs"), *results])


def jobs(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "jobs").iterdir()) if (tmp_path / "jobs").exists() else []


GONE = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["prompts.txt", GONE], "prompts.txt is empty"),
        (["prompts.none", GONE], "prompts.none can't be read"),
        (["prompts.jsonl", GONE, "--name", "a/b"], "can't be the name of a job"),
        (["prompts.jsonl", GONE, "--name", ".."], "can't be the name of a job"),
        (["prompts.jsonl", GONE, "--name", "there"], "is there and no job"),
        (["prompts.jsonl", GONE, "--samples", "0"], "--samples must be from 1 to 10,000"),
        (["prompts.jsonl", GONE, "--attempts", "0"], "--attempts must be more than 0"),
        (["prompts.jsonl", GONE, "--system", "@/none"], "/none can't be read"),
        (["prompts.jsonl", GONE, "--json-schema", "/dev/null"], "/dev/null is empty"),
        (["prompts.jsonl", GONE, "--column", "speed=fast"], "--column speed=fast must be PARAMETER=NAME"),
        (["prompts.jsonl", GONE, "--temperature", "-1"], "temperature"),
        (["prompts.jsonl", "127.0.0.1:9"], "must begin with http:// or https://"),
        (["prompts.jsonl", GONE, ""], "is empty"),
        (["-", GONE], "standard input can't be read twice"),
        (["prompts.jsonl", GONE, "--out", "answers.csv"], "--out needs --engine ray"),
        (["prompts.jsonl", GONE, "--allow-change"], "--allow-change needs --engine ray"),
        (["prompts.jsonl", GONE, "--shard-rows", "5"], "--shard-rows needs --engine ray"),
        (["p.parquet", GONE, "--engine", "ray", "--out", "o", "--name", "n"], "--name says nothing with --engine ray"),
        (["p.parquet", GONE, "--engine", "ray", "--out", "o", "--shard-rows", "0"], "--shard-rows must be 1 or more"),
        (["status", "day"], "no job day"),
        (["resume", "day"], "no job day"),
        (["retry-failed", "day"], "no job day"),
        (["cancel", "day"], "no job day"),
        (["export", "day"], "no job day"),
        (["export", "night", "--json"], "needs --out"),
    ],
    ids=lambda value: " ".join(value[:1] + value[2:]) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_error_with_status_2_and_leaves_no_job(
    tmp_path: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").touch()
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hi"}\n')
    (tmp_path / "jobs" / "there").mkdir(parents=True)
    (tmp_path / "jobs" / "there" / "thesis.txt").write_text("years of work")
    assert run(tmp_path, *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["error", " hint"]
    assert told in lines[0]
    assert jobs(tmp_path) == ["there"]
    assert (tmp_path / "jobs" / "there" / "thesis.txt").exists()


@pytest.mark.parametrize("words", [[], ["resume"], ["list", "night"], ["prompts.jsonl", "--samples", "x"]], ids=str)
def test_words_that_are_no_command_show_the_usage(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        batch.main([*words])
    assert left.value.code == 2
    assert "usage: nox -s batch --" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", *batch.COMMANDS])
def test_each_command_says_what_it_takes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        batch.main([*filter(None, [command]), "--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert f"nox -s batch -- {command}" in said
    assert max(map(len, said.splitlines())) <= 80


def test_two_rows_with_one_id_are_a_mistake_and_nothing_is_asked(
    tmp_path: Path, server: BatchServer, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"id": 1, "prompt": "Hi"}\n{"id": "1", "prompt": "Ho"}\n')
    assert run(tmp_path, "prompts.jsonl", server.url) == 2
    assert "line 1 and line 2 have one id, 1" in capsys.readouterr().err
    assert (server.prompts, jobs(tmp_path)) == ([], [])


def test_a_file_with_a_commands_name_is_given_with_its_folder(
    tmp_path: Path, server: BatchServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resume").write_text("Hi\n")
    words = ["--format", "txt", "--name", "status", "--results", "."]
    assert batch.main(["./resume", server.url, "--jobs", "jobs", *words]) == 0
    assert server.prompts == ["Hi"]
    assert batch.main(["status", "status", "--jobs", "jobs"]) == 0
    assert "1 of 1" in capsys.readouterr().out
    (tmp_path / "resume").unlink()
    assert batch.main(["--jobs", "jobs", "resume", "status"]) == 2
    assert "resume must be the first word" in capsys.readouterr().err


def test_a_row_that_fails_is_status_1_until_it_is_asked_again(
    tmp_path: Path, server: BatchServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(request: Request) -> None:
        if request.prompt == "Ho":
            request.status(400, "no such word")
        else:
            request.answer()

    server.script = script
    (tmp_path / "prompts.txt").write_text("Hi\nHo\n")
    assert run(tmp_path, "prompts.txt", server.url, "--name", "night") == 1
    assert run(tmp_path, "export", "night") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["answer"] for line in lines] == ["HI", None]
    assert "no such word" in lines[1]["error"]["message"]
    assert run(tmp_path, "resume", "night") == 1  # what was set aside stays so
    assert server.prompts.count("Ho") == 1
    server.script = Request.answer
    assert run(tmp_path, "retry-failed", "night") == 0
    assert server.prompts.count("Hi") == 1


def test_a_folder_whose_name_is_no_utf_8_holds_jobs_but_no_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / os.fsdecode(b"d\xff")
    odd.mkdir()
    (odd / "prompts.txt").write_text("Hi\n")
    assert run(tmp_path, str(odd / "prompts.txt"), GONE) == 2
    assert "prompts.txt' can't be kept as the input of a job" in capsys.readouterr().err
    declared(odd / "jobs")
    assert batch.main(["list", "--json", "--jobs", str(odd / "jobs")]) == 0
    assert json.loads(capsys.readouterr().out)[0]["folder"].endswith("d?/jobs/night")


def test_damaged_jobs_hide_no_others_in_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        declared(tmp_path / "jobs", name)
    Folder(tmp_path / "jobs" / "a").declaration.write_text("{}")
    assert run(tmp_path, "list") == 1
    said = capsys.readouterr()
    assert "b     new" in said.out
    assert "a/job.json is not the declaration of a job" in said.err
