"""Files of exports in each format, read back by other programs' readers."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import string
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from nexus_tasks.batches.asking import Asking
from nexus_tasks.batches.entries import Answer, Entry
from nexus_tasks.batches.exports import files
from nexus_tasks.batches.job import Folder
from nexus_tasks.core.errors import UsageError
from tests.support import small_disk
from tests.support.small_disk import needs_mount
from tests.unit.batches.jobs import answered, declared, of_file, set_aside

CALLS = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
ODD = 'a "b", c\r\nd;\ttab \x00 ü 夜 \u2028'
ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "One", "answer": 1, "mixed": 1, "list": [1, {"x": None}], "flag": True, "share": 1},
    {"id": "b", "prompt": "Two", "answer": 2, "mixed": "x", "note": ODD, "flag": False, "share": 0.5, "big": 2**70},
    {"id": "c", "prompt": "Three"},
]
ENTRIES: list[Entry] = [
    answered(1, ODD), set_aside(2, "too_long"),
    answered(0, "", Answer(None, "Hm.", CALLS, finish_reason="tool_calls")),
]  # fmt: skip


def job_with(tmp_path: Path, *, samples: int = 1, entries: list[Entry] = ENTRIES, api: str = "chat") -> Folder:
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return of_file(tmp_path / "jobs", source, Asking(samples=samples, api=api), *entries)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return job_with(tmp_path)


def test_jsonl_and_json_have_the_same_objects(folder: Folder, tmp_path: Path) -> None:
    files.write(folder, "jsonl", tmp_path / "out.jsonl")
    files.write(folder, "json", tmp_path / "out.json")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().split("\n")[:-1]]
    assert json.loads((tmp_path / "out.json").read_text()) == lines
    assert [line["id"] for line in lines] == ["a", "b", "c"]
    assert lines[0]["tool_calls"] == CALLS
    assert lines[0]["reasoning"] == "Hm."
    assert lines[1] == {
        "id": "b", "line": 2, "answer": ODD, "finish_reason": "stop", "model": "qwen", "build": "b1", "error": None,
        "metadata": {name: value for name, value in ROWS[1].items() if name not in ("id", "prompt")},
        "usage": {"prompt_tokens": 3, "output_tokens": 5, "cached_tokens": None},
    }  # fmt: skip
    assert lines[2]["error"] == {"kind": "too_long", "message": "why item 2"}
    assert lines[2]["answer"] is None


def test_csv_is_read_back_by_other_readers(folder: Folder, tmp_path: Path) -> None:
    files.write(folder, "csv", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert [row["id"] for row in table] == ["a", "b", "c"]
    assert (table[1]["answer"], table[1]["note"]) == (ODD, ODD)
    assert (table[0]["input_answer"], table[0]["list"], table[0]["flag"]) == ("1", '[1,{"x":null}]', "true")
    assert json.loads(table[0]["tool_calls"]) == CALLS
    assert (table[2]["error_kind"], table[2]["error_message"], table[2]["answer"]) == ("too_long", "why item 2", "")
    assert "sample" not in table[0]


def test_parquet_has_types(folder: Folder, tmp_path: Path) -> None:
    files.write(folder, "parquet", tmp_path / "out.parquet")
    table = parquet.read_table(tmp_path / "out.parquet")
    found = table.to_pydict()
    assert found["id"] == ["a", "b", "c"]
    assert found["answer"] == [None, ODD, None]
    assert found["input_answer"] == [1, 2, None]
    assert found["mixed"] == ["1", "x", None]
    assert found["share"] == [1.0, 0.5, None]
    assert found["big"] == [None, str(2**70), None]
    assert found["flag"] == [True, False, None]
    assert found["output_tokens"] == [5, 5, None]


def test_openai_gets_answers_in_one_file_and_errors_in_another(folder: Folder, tmp_path: Path) -> None:
    written = files.write(folder, "openai", tmp_path / "out.jsonl")
    assert written == [tmp_path / "out.jsonl", tmp_path / "out.errors.jsonl"]
    output, errors = ([json.loads(line) for line in path.read_text().split("\n")[:-1]] for path in written)
    assert [line["custom_id"] for line in output] == ["a", "b"]
    body = output[1]["response"]["body"]
    assert output[1]["response"]["status_code"] == 200
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": ODD}
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    assert output[0]["response"]["body"]["choices"][0]["message"]["tool_calls"] == CALLS
    assert [(line["custom_id"], line["error"]) for line in errors] == [
        ("c", {"code": "too_long", "message": "why item 2"})
    ]


def test_openai_has_the_samples_of_a_row_as_choices(tmp_path: Path) -> None:
    entries: list[Entry] = [answered(item, f"answer {item}") for item in range(5)]
    folder = job_with(tmp_path, samples=2, entries=entries)
    written = files.write(folder, "openai", tmp_path / "out.jsonl")
    output, errors = ([json.loads(line) for line in path.read_text().split("\n")[:-1]] for path in written)
    bodies = [line["response"]["body"] for line in output]
    choices = [[(one["index"], one["message"]["content"]) for one in body["choices"]] for body in bodies]
    assert choices == [
        [(0, "answer 0"), (1, "answer 1")], [(0, "answer 2"), (1, "answer 3")], [(0, "answer 4")]
    ]  # fmt: skip
    assert [line["custom_id"] for line in errors] == ["c"]


def test_without_errors_there_is_no_error_file_and_a_former_one_goes(tmp_path: Path) -> None:
    folder = job_with(tmp_path, entries=[answered(item, "yes") for item in range(3)])
    (tmp_path / "out.errors.jsonl").write_text("of before")
    assert files.write(folder, "openai", tmp_path / "out.jsonl") == [tmp_path / "out.jsonl"]
    assert not (tmp_path / "out.errors.jsonl").exists()


@pytest.mark.parametrize("kind", files.FORMATS)
def test_embeddings_are_lists_of_numbers(tmp_path: Path, kind: str) -> None:
    vector = [0.5, -1.25]
    entries: list[Entry] = [answered(item, "", Answer(embedding=vector)) for item in range(3)]
    folder = job_with(tmp_path, entries=entries, api="embeddings")
    files.write(folder, kind, tmp_path / "out")
    if kind == "parquet":
        assert parquet.read_table(tmp_path / "out")["embedding"].to_pylist() == [vector] * 3
    else:
        assert "[0.5,-1.25]" in (tmp_path / "out").read_text()


@pytest.mark.parametrize("kind", files.FORMATS)
def test_standard_output_gets_the_bytes_of_the_file(
    folder: Folder, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write(folder, kind, tmp_path / "out")
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out))
    files.write(folder, kind, None)
    written = out.getvalue()
    if kind == "openai":
        assert sorted(written.splitlines()) == sorted(
            (tmp_path / "out").read_bytes().splitlines() + (tmp_path / "out.errors.jsonl").read_bytes().splitlines()
        )
    else:
        assert written == (tmp_path / "out").read_bytes()


@pytest.mark.parametrize("kind", files.FORMATS)
def test_an_export_that_fails_leaves_the_file_before_it(folder: Folder, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "files" / "out"
    out.parent.mkdir()
    out.write_text("of before")
    lines = folder.journal.read_bytes().splitlines(keepends=True)
    folder.journal.write_bytes(b"".join([lines[0].replace(b"qwen", b"Qwen"), *lines[1:]]))
    with pytest.raises(Exception, match="line 1"):
        files.write(folder, kind, out)
    assert out.read_text() == "of before"
    assert list(out.parent.iterdir()) == [out]


@needs_mount
@pytest.mark.parametrize("kind", files.FORMATS)
def test_a_full_disk_leaves_the_file_before_it(tmp_path: Path, kind: str) -> None:
    noise = "".join(random.Random(1).choices(string.ascii_letters, k=400_000))  # noqa: S311 - no secret
    folder = job_with(tmp_path, entries=[answered(item, noise) for item in range(3)])
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk.mounted(disk, "256k"):
        (disk / "out").write_text("of before")
        with pytest.raises(OSError, match="No space left"):
            files.write(folder, kind, disk / "out")
        assert (disk / "out").read_text() == "of before"
        assert [path.name for path in disk.iterdir()] == ["out"]


def test_a_thousand_different_columns_are_none_of_a_table(tmp_path: Path) -> None:
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps({"prompt": "Hi", f"column {number}": 1}) + "\n" for number in range(1001)))
    folder = of_file(tmp_path / "jobs", source)
    with pytest.raises(UsageError, match="more than 1,000 different columns"):
        files.write(folder, "csv", tmp_path / "out.csv")
    files.write(folder, "jsonl", tmp_path / "out.jsonl")


@pytest.mark.parametrize("kind", files.FORMATS)
def test_a_job_whose_journal_is_not_there_yet_is_all_pending(tmp_path: Path, kind: str) -> None:
    folder = job_with(tmp_path, entries=[])
    folder.journal.unlink()
    files.write(folder, kind, tmp_path / "out")
    if kind == "jsonl":
        assert (tmp_path / "out").read_text().count('"pending"') == 3


@pytest.mark.parametrize("kind", ["jsonl", "openai", "parquet"])
def test_a_pipe_stays_one_and_gets_what_standard_output_would(
    folder: Folder, tmp_path: Path, kind: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as threads:
        read = threads.submit(pipe.read_bytes)
        assert files.write(folder, kind, pipe) == [pipe]
        piped = read.result()
    assert pipe.is_fifo()
    files.write(folder, kind, None)
    assert capfdbinary.readouterr().out == piped


def test_a_link_stays_one(folder: Folder, tmp_path: Path) -> None:
    link = tmp_path / "latest.jsonl"
    link.symlink_to("answers.jsonl")
    files.write(folder, "jsonl", link)
    assert link.is_symlink()
    assert (tmp_path / "answers.jsonl").read_bytes().count(b"\n") == 3


@pytest.mark.parametrize(
    "name", ["prompts.jsonl", "jobs/../prompts.jsonl", "jobs/night/journal.jsonl", "jobs/night/answers.csv"]
)
def test_what_the_job_is_made_of_is_never_written_over(folder: Folder, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="belongs to the job night"):
        files.write(folder, "jsonl", tmp_path / name)
    assert len((tmp_path / "prompts.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("out", "why"), [("", "is a folder"), ("none/out.jsonl", "is no folder"), ("/proc/out.jsonl", "can't be made")]
)
def test_a_place_where_no_file_can_be_is_refused(folder: Folder, tmp_path: Path, out: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        files.write(folder, "jsonl", tmp_path / out)


def test_what_another_job_is_made_of_is_never_written_over(folder: Folder, tmp_path: Path) -> None:
    other = declared(tmp_path / "others", "day")
    with pytest.raises(UsageError, match="belongs to the job day"):
        files.write(folder, "jsonl", other.journal)
    assert not other.journal.exists()


def test_an_errors_file_is_not_the_input_either(tmp_path: Path) -> None:
    source = tmp_path / "rows.errors.jsonl"
    source.write_text('{"prompt": "One"}\n')
    with pytest.raises(UsageError, match="belongs to the job night"):
        files.write(of_file(tmp_path / "jobs", source), "openai", tmp_path / "rows.jsonl")


def test_a_folder_that_is_missing_is_named(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there, where a\.csv would go, is no folder"):
        files.write(folder, "csv", tmp_path / "there" / "a.csv")
